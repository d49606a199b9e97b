"""The test cited in a patient's file fails with the lesion in the package and passes without."""

import dataclasses
import importlib
import inspect

import pytest

from mini_moe import presets
from mini_moe.model import router
from mini_moe.ops import reference, use
from mini_moe.teaching.clinic.diseases import DISEASES, find
from mini_moe.training import losses

CODE = [disease for disease in DISEASES if not disease.is_setting]
SETTINGS = ("k=1 with renormalisation", "softmax for sigmoid", "gates not normalised")


def cited(disease):
    """Return the cited test's module and the test."""
    path, name = disease.pinned_by.split("::")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return module, getattr(module, name)


def run(test):
    """Run the test once; pass a number of experts if it takes one."""
    test(**({"top_k": 3} if "top_k" in inspect.signature(test).parameters else {}))


def put_into_the_package(monkeypatch, lesion, module):
    """Replace the healthy functions by the lesion's, in the package and in the test."""
    for home, name in ((reference, "route"), (router, "route"), (losses, "sequence_balance_loss")):
        sick = getattr(lesion, name.removeprefix("sequence_"))
        monkeypatch.setattr(home, name, sick)
        if hasattr(module, name):
            monkeypatch.setattr(module, name, sick)


@pytest.mark.parametrize("disease", CODE, ids=lambda disease: disease.name)
def test_the_cited_test_fails_with_the_sick_code_and_passes_without(disease, monkeypatch):
    module, test = cited(disease)
    run(test)
    put_into_the_package(monkeypatch, disease.lesion, module)
    with use("pytorch"), pytest.raises(AssertionError):  # so that `reference.route` decides
        run(test)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_setting_fails_the_test_of_the_presets(name):
    _, test = cited(find("gates not normalised"))
    test(presets.lab)
    with pytest.raises(AssertionError):
        test(lambda: dataclasses.replace(presets.lab(), **find(name).lesion.config))


def test_six_diseases_are_code_and_four_are_settings():
    assert len(CODE) == 6 and set(SETTINGS) < {d.name for d in DISEASES if d.is_setting}
