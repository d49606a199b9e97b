"""Every patient trains, differs little from the healthy code, and hides its disease."""

import importlib
from pathlib import Path

import pytest

from mini_moe.model.router import Router
from mini_moe.teaching.clinic.clinic import LETTERS, ORDER, disease_of
from mini_moe.teaching.clinic.difference import difference, file_of
from mini_moe.teaching.clinic.diseases import DISEASES, NAMES
from mini_moe.teaching.clinic.patient import SickRouter
from mini_moe.teaching.clinic.sick_code import GAMMA
from tests.teaching.clinic.conftest import Ward

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", Ward.names)
def test_the_loss_goes_down_at_every_seed(ward, seed, name):
    losses = ward.patient(name, seed).losses
    assert losses[0] > 8 and losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("disease", DISEASES, ids=NAMES)
def test_a_patient_differs_in_at_most_four_lines(disease):
    assert 1 <= len(difference(disease.lesion)) <= 4


@pytest.mark.parametrize("disease", DISEASES, ids=NAMES)
def test_a_file_shows_the_lines_the_thread_and_a_test_that_exists(disease):
    text = file_of(disease)
    assert "\n+" in text and "https://github.com/" in text
    path, test = disease.pinned_by.split("::")
    assert f"def {test}(" in (ROOT / path).read_text()


def test_a_drifting_bias_trains_exactly_like_the_healthy_twin(ward):
    assert ward.patient("bias drifts in evaluation").losses == ward.patient("healthy").losses


def test_letters_are_not_in_the_order_of_the_list():
    assert sorted(ORDER) == list(range(len(DISEASES)))
    assert [disease_of(letter) for letter in LETTERS] != list(DISEASES)


def test_a_patient_does_not_say_what_it_has(ward):
    for name in NAMES:
        patient = ward.patient(name)
        public = [key for key in vars(patient) if not key.startswith("_")]
        assert name not in repr(patient) and public == ["letter", "model", "losses"]


def test_the_sick_routers_are_trained_as_routers_are(ward):
    routers = [
        m for m in ward.patient("noise in evaluation").model.modules() if isinstance(m, Router)
    ]
    assert [type(router) for router in routers] == [SickRouter]


def test_the_sick_code_moves_the_bias_by_the_rate_of_training():
    patient = importlib.import_module("mini_moe.teaching.clinic.patient")
    assert patient.train_config().bias_update_rate == GAMMA
