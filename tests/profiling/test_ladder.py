import pytest
import torch

from mini_moe.model.experts import Experts
from mini_moe.ops import use
from mini_moe.profiling.ladder import Rung, climb, with_threads
from tests.profiling.timing.test_recording import hooks
from tests.training.small_run import small_train_config


@pytest.fixture
def rungs():
    adamw = small_train_config(optimizer="adamw", learning_rate=0.004)
    return [
        Rung("loop", adamw, "definition", fused=False),
        Rung("sorted", adamw, "pytorch", fused=False),
        Rung("fused", adamw),
    ]


def test_every_rung_is_timed_in_every_round(model, corpus, rungs):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seconds = climb(model, rungs, corpus, rounds=2)
    assert list(seconds) == ["loop", "sorted", "fused"]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert hooks(model) == 0


def test_the_definition_runs_every_expert_and_is_gone_afterwards(model):
    """All four experts run although two were chosen; the fast path is back after an error."""
    experts = next(module for module in model.modules() if isinstance(module, Experts))
    inputs = torch.randn(8, 16), torch.tensor([[0, 1]] * 8), torch.full((8, 2), 0.5)

    def activations():
        with torch.profiler.profile() as seen:
            output = experts(*inputs)
        return sum(event.name == "aten::silu" for event in seen.events()), output

    _, plain = activations()
    with pytest.raises(KeyboardInterrupt), use("definition"):
        n_experts_run, defined = activations()
        assert n_experts_run == 4
        assert torch.allclose(plain, defined, atol=1e-6)
        raise KeyboardInterrupt
    assert activations()[0] < 4


def test_the_fused_flag_reaches_the_optimizer(model, rungs):
    states = [rungs[0].state(model), rungs[2].state(model)]
    assert [s.optimizers[0].param_groups[0]["fused"] for s in states] == [False, True]


def test_the_number_of_threads_is_restored_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt), with_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyboardInterrupt
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="count=0"), with_threads(0):
        pass


def test_bad_ladders_are_named(model, corpus, rungs):
    for wrong in ([], [rungs[0], rungs[0]]):
        with pytest.raises(ValueError, match="rungs"):
            climb(model, wrong, corpus)
    with pytest.raises(ValueError, match="steps=0"):
        climb(model, rungs, corpus, rounds=0)
