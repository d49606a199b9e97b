from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from mini_moe.ops import sorted_experts
from mini_moe.profiling.timing.recording import KINDS, Part, kinds_of, recording
from mini_moe.training import loop


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def run(model):
    return model(torch.zeros(1, 4, dtype=torch.long)).sum()


def test_every_kind_of_module_is_found(model):
    kinds = {part.kind for _, part in kinds_of(model).values()}
    named = {"embedding", "norms", "attention", "router", "experts", "combine", "shared", "head"}
    assert kinds == named | {"dense FFN", "residual"}
    assert kinds <= set(KINDS)


def test_shared_experts_and_dense_networks_are_told_apart(model):
    found = {path: part.kind for path, (_, part) in kinds_of(model).items()}
    assert found["layers.0.mlp"] == "dense FFN"
    assert found["layers.1.mlp.shared_experts"] == "shared"


def test_recording_leaves_nothing_on_the_model(model):
    before = loop.training_losses
    with recording(model):
        assert hooks(model)
        assert loop.training_losses is not before
    assert hooks(model) == 0


def test_recordings_in_two_threads_alternate_and_leave_nothing_behind(model):
    before = loop.training_losses
    with ThreadPoolExecutor(1) as other:
        with recording(model) as record:
            waiting = other.submit(record_one_run, model)
            run(model)
            assert not waiting.done() and len(record.parts) > 5
        assert len(waiting.result().parts) == len(record.parts)
    assert loop.training_losses is before and hooks(model) == 0


def test_what_another_thread_runs_is_not_recorded(model):
    with ThreadPoolExecutor(1) as other, recording(model) as record:
        other.submit(model.norm, torch.zeros(1, len(model.norm.weight))).result()
        assert not record.parts


def record_one_run(model):
    with recording(model) as record:
        run(model)
    return record


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_behind_after_an_error_or_an_interrupt(model, error):
    before = loop.training_losses, loop.sample_batch, sorted_experts.sort_rows
    clip = torch.nn.utils.clip_grad_norm_
    with pytest.raises(error), recording(model):
        raise error
    assert hooks(model) == 0
    assert (loop.training_losses, loop.sample_batch, sorted_experts.sort_rows) == before
    assert torch.nn.utils.clip_grad_norm_ is clip


def test_an_error_inside_a_module_closes_its_ranges(model):
    with recording(model) as record:
        with pytest.raises(ValueError), record.range(Part("other", "step")):
            run_with_bad_tokens(model)
        assert record._open == []


def run_with_bad_tokens(model):
    def fail(*_):
        raise ValueError

    handle = model.layers[1].mlp.experts.register_forward_pre_hook(fail)
    try:
        run(model)
    finally:
        handle.remove()


def nodes_below(tensor):
    """Return all nodes of the graph that produced a tensor."""
    found, waiting = set(), [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [below for below, _ in node.next_functions]
    return found


def test_each_node_of_the_graph_belongs_to_the_module_that_made_it(model):
    """Checked against the graph itself: the nodes between a module's output and its input."""
    with recording(model) as record:
        x = torch.randn(2, 4, 16, requires_grad=True)
        normed = model.layers[0].input_layernorm(x)
        fed = model.layers[0].mlp(normed)
        loss = (fed + x).sum()
    norm, whole = nodes_below(normed), nodes_below(fed)
    for node in nodes_below(loss):
        if "AccumulateGrad" in node.name():
            continue
        maker = record.maker(node._sequence_nr()).kind
        assert maker == ("norms" if node in norm else "dense FFN" if node in whole else "other")


def test_the_result_is_the_same_while_recorded(model):
    plain = run(model)
    with recording(model):
        assert torch.equal(run(model), plain)


def test_a_model_without_experts_can_be_recorded():
    assert kinds_of(nn.Linear(2, 2)) == {}
