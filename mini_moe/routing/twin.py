"""A second module tree over the same weights, to be changed or watched without anyone noticing."""

import copy
from typing import Any, TypeVar

from torch import nn

TABLES = (dict, set)  # what a module keeps its parameters, buffers, children and hooks in
Model = TypeVar("Model", bound=nn.Module)


def twin(model: Model) -> Model:
    """A model of its own that shares every parameter and buffer with `model`.

    Modules, their hooks and their modes are copies, so hooks registered on the twin, `eval()` and
    attributes set on it never reach `model`, which other threads may be running. Weights aren't
    copied: training `model` trains its twins, and a gradient taken through a twin arrives in
    `model`.
    """
    twins = {module: _alone(module) for module in model.modules()}
    for made in twins.values():
        children = vars(made)["_modules"]
        children.update({name: twins.get(child) for name, child in children.items()})
    return twins[model]


def shadow(module: nn.Module, name: str, value: Any) -> None:
    """Let a twin's module compute with `value` in place of its parameter, buffer or child `name`.

    What it holds stays: `parameters()`, `state_dict()` and `save_hf` still see the original.
    """
    vars(module)[name] = value  # found before nn.Module looks a name up among what it holds


def _alone(module: nn.Module) -> nn.Module:
    """A copy of one module that shares tensors and children, but none of the tables of them."""
    made = copy.copy(module)
    tables = {name: value for name, value in vars(made).items() if isinstance(value, TABLES)}
    vars(made).update({name: table.copy() for name, table in tables.items()})
    return made
