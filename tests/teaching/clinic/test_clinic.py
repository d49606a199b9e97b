"""The clinic: orders, reports, and wrong diagnoses refused with a number."""

import dataclasses

import pytest
import torch

from mini_moe.teaching import check
from mini_moe.teaching.clinic import Clinic
from mini_moe.teaching.clinic.clinic import LETTERS, admitted, contradiction, disease_of
from mini_moe.teaching.clinic.diseases import NAMES
from mini_moe.teaching.clinic.patient import train_patient
from mini_moe.teaching.exercise import choice_exercise
from mini_moe.text import load_corpus
from mini_moe.training.losses import sequence_balance_loss
from tests.teaching.clinic.conftest import STEPS


@pytest.fixture(scope="module")
def clinic():
    return Clinic(steps=STEPS)


@pytest.mark.parametrize("letter", LETTERS)
def test_only_the_right_diagnosis_is_never_contradicted(letter, seed):
    kept = [name for name in NAMES if not contradiction(letter, name, seed, STEPS)]
    assert kept == [disease_of(letter).name]


@pytest.mark.parametrize("name", NAMES)
def test_the_healthy_twin_contradicts_every_diagnosis(name, seed):
    assert contradiction("healthy", name, seed, STEPS)


def test_a_wrong_diagnosis_is_refused_with_instrument_and_number():
    said = contradiction("I", "router collapse", 0, STEPS)
    assert "the instrument 'bias' would read “largest bias”: 0." in said
    value = float(said.rpartition(" reads ")[2])
    assert 0.003 <= value <= STEPS * 0.003 + 1e-6


def test_a_report_shows_the_twin_next_to_the_patient(clinic):
    report = clinic.order("A", "gates", "bias")
    assert report.head == ("instrument", "reading", "A", "healthy twin", "must be")
    assert {row[0] for row in report.rows} == {"gates", "bias"}
    assert report._repr_html_().count("<tr>") == 1 + len(report.rows)
    assert "largest sum of a token" in repr(report)


def test_the_healthy_twin_is_alone_in_its_report(clinic):
    assert clinic.order("healthy", "gates").head == ("instrument", "reading", "healthy", "must be")


def test_one_reading_by_its_name(clinic):
    assert clinic.reading("healthy", "gates", "largest sum of a token") == pytest.approx(1)
    with pytest.raises(ValueError, match="row='sum': one of smallest gate, largest gate"):
        clinic.reading("healthy", "gates", "sum")


def test_the_solution_is_folded_and_names_every_disease_once(clinic):
    shown = clinic.decisions()
    assert shown._repr_html_().startswith("<details><summary>Solution")
    assert all(shown._repr_html_().count(f">{name}<") == 1 for name in NAMES)
    assert not any(name in repr(shown) for name in NAMES)


def test_a_repaired_part_heals(clinic):
    report = clinic.treat("H", "reach", balance_loss=sequence_balance_loss)
    assert report.head[2:5] == ("H", "H treated", "healthy twin")
    sick, treated, healthy = report.rows[1][2:5]
    assert float(sick) < 12.6 and treated == healthy == "100"
    with pytest.raises(ValueError, match=r"repair=\['bias'\]: some of \['balance_loss'"):
        clinic.treat("H", bias=0)


def test_with_the_packages_loss_h_becomes_its_twin_digit_for_digit():
    lesion = dataclasses.replace(disease_of("H").lesion, balance_loss=sequence_balance_loss)
    treated = train_patient("H", lesion, load_corpus(), STEPS)
    twin = admitted("healthy", 0, STEPS)
    assert treated.losses == twin.losses != admitted("H", 0, STEPS).losses
    pairs = zip(treated.model.state_dict().values(), twin.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_first_refusal_names_the_instrument_alone():
    said = contradiction("I", "router collapse", 0, STEPS, numbers=False)
    assert said == "the instrument 'bias' contradicts that: order it"


def test_without_names_all_instruments_are_read(clinic):
    assert len({row[0] for row in clinic.order("B").rows}) == 9


def test_every_patient_has_a_curve(clinic):
    curves = clinic.curves()
    assert list(curves) == ["healthy", *LETTERS]
    assert all(len(x) == len(y) == STEPS for x, y in curves.values())


@pytest.mark.parametrize("letter", ["Z", "a", "", "AB"])
def test_an_unknown_letter_is_refused(clinic, letter):
    with pytest.raises(ValueError, match="one of A, B"):
        clinic.order(letter, "gates")


def test_a_choice_ignores_case_and_is_explained_when_right(capsys):
    fields = {"hints": ("a",), "difficulty": 1, "importance": 1, "minutes": 1}
    choice_exercise("fruit", "pear", ("pear", "apple"), explanation="It is green.", **fields)
    assert check.fruit(" Pear ") == " Pear "
    assert "correct" in (said := capsys.readouterr().out) and "It is green." in said
    check.fruit("apple")
    assert "It is not 'apple'." in capsys.readouterr().out
    check.fruit("plum")
    assert "'plum' is not one of the choices. They are: 'pear', 'apple'" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not one of choices"):
        choice_exercise("nut", "pear", ("apple",), explanation="", **fields)
