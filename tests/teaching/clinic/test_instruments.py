"""Each instrument tells its patient from the healthy twin and all others, for three seeds.

Thresholds leave a factor of ten or more on either side; if a value is exactly 0 or 1 by
construction, the test says so.
"""

import pytest
import torch

from mini_moe.teaching.clinic.clinic import Clinic, admitted, unseen_tokens
from mini_moe.teaching.clinic.instruments import INSTRUMENTS, measure
from mini_moe.text import load_corpus
from tests.teaching.clinic.conftest import STEPS, Ward

NAMES = Ward.names


def split(ward, seed, instrument, row, ill):
    """Return the patient's reading, and everyone else's."""
    others = [ward.read(name, instrument, row, seed) for name in NAMES if name not in ill]
    return [ward.read(name, instrument, row, seed) for name in ill], others


def test_one_renormalised_gate_cuts_the_language_loss_off(ward, seed):
    ill, others = split(
        ward, seed, "gradients", "of the language loss", ["k=1 with renormalisation"]
    )
    assert ill[0] < 1e-7 and min(others) > 1e-3


def test_a_dropped_gradient_is_exactly_zero(ward, seed):
    ill, others = split(
        ward, seed, "gradients", "of the balance loss", ["balance gradient dropped"]
    )
    assert ill == [0] and min(others) > 1e-2


def test_gates_with_the_bias_in_them_move_with_it(ward, seed):
    row = "gates move when every bias rises by 0.1"
    ill, others = split(ward, seed, "bias", row, ["bias in the gate"])
    assert ill[0] > 1e-3 and max(others) < 1e-6


def test_only_softmax_scores_sum_to_one(ward, seed):
    for row in ("smallest sum over all experts", "largest sum over all experts"):
        ill, others = split(ward, seed, "scores", row, ["softmax for sigmoid"])
        assert ill[0] == pytest.approx(1, abs=1e-5) and min(others) > 3


def test_only_unnormalised_gates_do_not_sum_to_one(ward, seed):
    ill, others = split(ward, seed, "gates", "largest sum of a token", ["gates not normalised"])
    assert ill[0] > 1.2 and others == pytest.approx([1.0] * len(others), abs=1e-5)


def test_two_softmaxes_hardly_notice_a_collapse(ward, seed):
    row = "of an invented collapse"
    sick = "double softmax in the balance loss"
    ill, others = split(ward, seed, "balance loss", row, [sick, "k=1 with renormalisation"])
    assert ill[0] < 2.5 and others == pytest.approx([8.0] * len(others), rel=1e-4)
    assert ill[1] == pytest.approx(16, rel=1e-4)  # healthy: 16 experts, one per token
    even = ward.read(sick, "balance loss", "of an invented even routing", seed)
    assert even == pytest.approx(1, abs=1e-5)


def test_p_over_the_chosen_reaches_only_the_chosen(ward, seed):
    row = "scores the balance loss pulls at, %"
    ill, others = split(
        ward, seed, "reach", row, ["P over the top k only", "balance gradient dropped"]
    )
    assert 10 < ill[0] <= 12.5 and ill[1] == 0 and min(others) > 95


def test_the_language_loss_reaches_the_chosen(ward, seed):
    row = "scores the language loss pulls at, %"
    ill, others = split(ward, seed, "reach", row, ["k=1 with renormalisation"])
    assert ill[0] < 0.1 and min(others) > 11 and max(others) == pytest.approx(12.5, abs=0.01)


def test_only_a_bias_updated_in_the_forward_pass_drifts(ward, seed):
    ill, others = split(ward, seed, "evaluation", "biases move by", ["bias drifts in evaluation"])
    assert ill[0] >= 0.003 and others == [0] * len(others)


def test_only_noise_and_drift_answer_differently_the_second_time(ward, seed):
    row = "logits of two runs differ by"
    ill, others = split(
        ward, seed, "evaluation", row, ["noise in evaluation", "bias drifts in evaluation"]
    )
    assert ill[0] > 1e-2 and others == [0] * len(others)


def test_only_without_balancing_do_biases_stay_zero(ward, seed):
    ill, others = split(ward, seed, "bias", "largest bias", ["router collapse"])
    assert ill == [0] and min(others) > 0.003


def test_an_unbalanced_router_collapses(seed):
    """Ten steps are too few to see this; thirty are enough."""
    read = Clinic(seed, 30).reading
    assert read("healthy", "load", "MaxVio") < 2.5 < 3.5 < read("X", "load", "MaxVio")
    assert read("X", "load", "entropy") < 0.75 < 0.85 < read("healthy", "load", "entropy")


def test_the_healthy_twin_is_within_every_rule(ward, seed):
    read = {
        (name, row.what): (row.value, row.rule)
        for name in INSTRUMENTS
        for row in measure(ward.patient("healthy", seed), name, unseen_tokens(load_corpus()))
    }
    exact = {what: value for what, (value, rule) in read.items() if rule in ("0", "1", "8", "100")}
    assert len(exact) >= 8
    for what, value in exact.items():
        assert value == pytest.approx(float(read[what][1]), rel=1e-4, abs=0.05), what


@pytest.mark.parametrize("name", ["bias drifts in evaluation", "noise in evaluation", "healthy"])
def test_measuring_changes_neither_patient_nor_chance(ward, name):
    patient = ward.patient(name)
    before = {key: value.clone() for key, value in patient.model.state_dict().items()}
    state = torch.random.get_rng_state()
    for instrument in INSTRUMENTS:
        first = measure(patient, instrument, unseen_tokens(load_corpus()))
        assert first == measure(patient, instrument, unseen_tokens(load_corpus()))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in patient.model.state_dict().items())
    assert all(p.grad is None or not p.grad.isnan().any() for p in patient.model.parameters())


def test_an_unknown_instrument_is_named():
    with pytest.raises(ValueError, match="instrument='x-ray': one of loss, load, gradients"):
        measure(admitted("healthy", 0, STEPS), "x-ray", unseen_tokens(load_corpus()))
