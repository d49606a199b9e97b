"""The table of operations is correct: all forms agree, and nothing compiled is missing."""

import subprocess
import sys
import threading

import pytest
import torch

from mini_moe import ops, presets
from mini_moe.ops import TABLE, compiled, describe, use
from mini_moe.ops.stages import OPERATIONS
from mini_moe.ops.table import as_text
from tests.helpers import TOLERANCE, relative_error
from tests.kernels.cpu import needs_library
from tests.ops.expert_cases import random_case

NAMES = [operation.name for operation in TABLE]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads():
    """Return queries, [nope | value] of every key, and the shared rope part of the keys."""
    return normal(2, 9, 3, 12), normal(2, 9, 3, 8 + 6, seed=1), normal(2, 9, 4, seed=2)


ARGUMENTS = {
    "moe_experts": lambda: [t.detach() for t in random_case(40, 2, 6)],
    "route": lambda: (normal(40, 16), normal(16, seed=1) / 9, presets.tiny()),
    "choose": lambda: (normal(40, 16), 3),
    "likeliest": lambda: (normal(40, 16),),
    "causal_attention": lambda: (*(normal(2, 3, 9, d, seed=d) for d in (12, 12, 6)), 0.3),
    "latent_attention": lambda: (*heads(), 0.3),
    "rotate": lambda: (heads()[0], normal(9, 4, 2)),
    "normalise": lambda: (normal(40, 16), normal(16), 1e-6),
    "linear": lambda: (normal(40, 16), normal(5, 16)),
    "product": lambda: (normal(40, 16), normal(5, 16)),
    "swiglu_product": lambda: (normal(40, 16), normal(40, 16, seed=1)),
    "cross_entropy": lambda: (normal(40, 16), torch.arange(40) % 16),
}
WITHOUT_GRADIENTS = {"choose", "likeliest", "product", "route"}  # route: test_cpu_gate.py


@pytest.mark.parametrize("name", ARGUMENTS)
def test_all_forms_of_an_operation_agree(name):
    """Compare outputs and gradients; tests/inference/engine covers `decode`."""
    forms = ("pytorch",) if compiled.WHY_NOT else ("pytorch", "compiled")
    found = {form: evaluate(name, form) for form in ("definition", *forms)}
    for form in forms:
        for ours, theirs in zip(found[form], found["definition"], strict=True):
            assert ours.dtype == theirs.dtype
            assert relative_error(ours, theirs) <= TOLERANCE[torch.float32]


def evaluate(name, form):
    """Return the outputs, and the gradients of a weighted sum of those that have any."""
    given = ARGUMENTS[name]()
    leaves = [t for t in given if isinstance(t, torch.Tensor) and t.is_floating_point()]
    leaves = leaves[:1] if name == "rotate" else leaves  # angles have no gradient
    for leaf in leaves:
        leaf.requires_grad_()
    with use(form):
        result = getattr(ops, name)(*given)
    outputs = list(result) if isinstance(result, tuple) else [result]
    weighted = [
        (out.flatten() @ torch.linspace(-1, 1, out.numel())) for out in outputs if out.requires_grad
    ]
    if weighted and name not in WITHOUT_GRADIENTS:
        outputs += torch.autograd.grad(sum(weighted), leaves, materialize_grads=True)
    return [out.detach() for out in outputs]


@needs_library
def test_everything_compiled_is_in_the_table_or_a_stage_of_the_layer():
    named = {name for row in TABLE for name in (row.cpu, row.cuda) if name} | set(OPERATIONS)
    registered = torch._C._dispatch_get_all_op_names()
    ours = {name.partition("::")[2] for name in registered if name.startswith("mini_moe::")}
    ours = {name for name in ours if "backward" not in name and name != "sorted_experts"}
    asked = {"instruction_set", "use_instruction_set", "cuda_kernels", "release_scratch"}
    assert ours - asked == named
    assert named <= ours


def test_describe_says_what_the_switch_allows():
    with use("definition"):
        assert "the definition" in describe("route")
    with use("pytorch"):
        assert "switched off" in describe()
    if not compiled.WHY_NOT:
        assert describe("linear").startswith("linear on the CPU: compiled kernels (")
    with pytest.raises(ValueError, match="name='softmax': one of"):
        describe("softmax")


@pytest.mark.any_types
def test_the_switch_refuses_other_names_and_is_restored_after_an_error():
    with pytest.raises(ValueError, match="form='fast': one of"), use("fast"):
        pass
    before = describe()
    with pytest.raises(KeyboardInterrupt), use("definition"):
        raise KeyboardInterrupt
    assert describe() == before


def test_the_switch_leaves_other_threads_alone():
    seen = []
    with use("definition"):
        thread = threading.Thread(target=lambda: seen.append(describe()))
        thread.start()
        thread.join()
    assert seen == [describe()]


def test_the_command_prints_every_operation():
    done = subprocess.run(
        [sys.executable, "-m", "mini_moe.ops"], capture_output=True, text=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert all(f"\n{name} " in done.stdout for name in NAMES)
    assert as_text() in done.stdout


@pytest.mark.parametrize("form", ["definition", "pytorch", "compiled"])
def test_bad_ids_and_targets_are_refused_in_every_form(form):
    x, ids, *rest = ARGUMENTS["moe_experts"]()
    with use(form):
        for wrong in (-1, 6):
            with pytest.raises(ValueError, match="expert_ids must lie in"):
                ops.moe_experts(x, ids.clone().fill_(wrong), *rest)
        for wrong in (-100, 16):
            with pytest.raises((ValueError, IndexError)):
                ops.cross_entropy(normal(40, 16), torch.full((40,), wrong))


@needs_library
def test_a_product_of_few_rows_refuses_gradients():
    weight = normal(5, 16).requires_grad_()
    with pytest.raises(RuntimeError, match="can't be differentiated"):
        ops.product(normal(3, 16), weight).sum().backward()
