import functools
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mini_moe import Transformer
from mini_moe.profiling import profile_step
from mini_moe.profiling.timing.recording import OTHER, Part, Recording
from mini_moe.profiling.timing.segments import KERNEL_KINDS, NODE, STEP_NAME, segments_of
from tests.training.small_run import small_model_config, small_train_config

ATTENTION = Part("attention", "layers.0.self_attn")


def event(name, start, end, node=-1, thread=1, kernels=()):
    return SimpleNamespace(
        name=name, thread=thread, sequence_nr=node, is_async=False,
        time_range=SimpleNamespace(start=float(start), end=float(end)),
        device_type=SimpleNamespace(name="CPU"),
        kernels=[SimpleNamespace(name=name, duration=one) for name, one in kernels],
    )  # fmt: skip


@functools.cache
def record():
    """Build a recording in which attention ran inside a step and made node 7, before node 8."""
    made = Recording()
    made.parts = {STEP_NAME: OTHER, "layers.0.self_attn (attention)": ATTENTION}
    made._changes = [
        (7, STEP_NAME), (7, "layers.0.self_attn (attention)"), (8, STEP_NAME),
    ]  # fmt: skip
    return made


def cut(*events):
    pieces = segments_of(events, record())
    return [(p.part.kind, p.phase, round(p.start * 1e6), round(p.seconds * 1e6)) for p in pieces]


STEP = event(STEP_NAME, 0, 100)
FORWARD = event("layers.0.self_attn (attention)", 10, 40)


def test_a_range_takes_its_time_from_the_one_around_it():
    assert cut(STEP, FORWARD) == [
        ("other", "other", 0, 10), ("attention", "forward", 10, 30), ("other", "other", 40, 60),
    ]  # fmt: skip


def test_a_node_belongs_to_the_module_that_made_it():
    pieces = cut(STEP, event(NODE + "Mm", 50, 60, node=7), event(NODE + "Mul", 60, 65, node=8))
    assert pieces[1:3] == [("attention", "backward", 50, 10), ("other", "backward", 60, 5)]


def test_adding_up_gradients_belongs_to_the_node_before():
    pieces = cut(STEP, event(NODE + "Mm", 50, 60, node=7), event(NODE + "Accumulate", 62, 65))
    assert ("attention", "backward", 62, 3) in pieces


def test_the_engine_between_two_nodes_also_counts_as_backward():
    pieces = cut(STEP, event(NODE + "Mm", 50, 60, node=7), event(NODE + "Mm", 70, 80, node=7))
    assert ("other", "backward", 60, 10) in pieces


def test_operations_called_by_the_optimizer_belong_to_it():
    pieces = cut(STEP, event("Optimizer.step#Muon.step", 80, 95), event("aten::mm", 81, 90))
    assert ("optimizer", "optimizer", 80, 15) in pieces


def test_only_operations_that_call_no_other_are_counted():
    linear, inner = event("aten::linear", 11, 30), event("aten::mm", 12, 29)
    pieces = segments_of([STEP, FORWARD, linear, inner, event("aten::add", 31, 35)], record())
    assert [piece.calls for piece in pieces] == [0, 2, 0]


def test_a_child_that_outlasts_its_parent_is_cut():
    pieces = cut(STEP, event("layers.0.self_attn (attention)", 90, 120))
    assert pieces[-1] == ("attention", "forward", 90, 10)


def test_kernels_belong_to_the_part_that_launched_them():
    launched = event("aten::mm", 12, 20, kernels=[("gemm", 500), ("softmax", 250)])
    backward = event(NODE + "Mm", 50, 60, node=7, thread=2)
    in_backward = event("aten::mm", 51, 59, thread=2, kernels=[("gemm", 300)])
    pieces = segments_of([STEP, FORWARD, launched, backward, in_backward], record())
    device = {}
    for piece in pieces:
        key = piece.part.kind, piece.phase
        device[key] = device.get(key, 0) + piece.device_seconds
    assert device["attention", "forward"] == pytest.approx(750e-6)
    assert device["attention", "backward"] == pytest.approx(300e-6)


def test_kernels_inside_compiled_experts_are_distinguished_by_name():
    made = Recording()
    experts = Part("experts", "layers.1.mlp.experts")
    made.parts = {STEP_NAME: OTHER, "layers.1.mlp.experts (experts)": experts}
    launched = event("mini_moe::experts_forward", 11, 20, kernels=[
        ("place_rows_kernel", 10), ("grouped_swiglu_tiles", 70), ("combine_kernel<float>", 20),
    ])  # fmt: skip
    pieces = segments_of([STEP, event("layers.1.mlp.experts (experts)", 10, 40), launched], made)
    device = {p.part.kind: p.device_seconds for p in pieces if p.device_seconds}
    assert device == {"sort": 10e-6, "experts": pytest.approx(70e-6), "combine": 20e-6}
    assert sum(piece.seconds for piece in pieces) == pytest.approx(100e-6)


@pytest.mark.parametrize("word", KERNEL_KINDS)
def test_kernel_names_match_the_sources(word):
    sources = "".join(
        path.read_text() for path in (Path(__file__).parents[3] / "kernels").glob("*.cu")
    )
    assert f"{word}_kernel(" in sources


def test_segments_of_a_real_step_cover_it_once(profiled):
    _, profile = profiled
    for one, other in itertools.pairwise(profile.segments):
        assert one.start + one.seconds == pytest.approx(other.start, abs=1e-9)
    covered = sum(segment.seconds for segment in profile.segments)
    assert covered == pytest.approx(profile.seconds, rel=0.02, abs=2e-4)


def test_the_backward_pass_of_every_kind_is_found(profiled):
    _, profile = profiled
    phases = {}
    for row in profile.rows:
        phases.setdefault(row.kind, set()).add(row.phase)
    for kind in ("embedding", "norms", "attention", "router", "experts", "shared", "head", "loss"):
        assert phases[kind] >= {"forward", "backward"}, kind
    assert phases["optimizer"] == {"optimizer"}


def test_mtp_modules_have_their_own_backward_time(corpus):
    torch.manual_seed(0)
    model = Transformer(small_model_config(corpus, n_mtp_layers=1))
    profile = profile_step(model, small_train_config(), corpus, steps=1, warm_up=0)
    found = {(segment.part.kind, segment.phase) for segment in profile.segments}
    assert {("MTP", "forward"), ("MTP", "backward")} <= found
