"""A second module tree over the same weights: change or hook it without touching the first."""

import copy
from typing import Any, TypeVar

from torch import nn

TABLES = (dict, set)  # what a module keeps its parameters, buffers, children and hooks in
Model = TypeVar("Model", bound=nn.Module)


def twin(model: Model) -> Model:
    """Return a separate model that shares every parameter and buffer with `model`.

    Modules, hooks and training modes are copied, so hooks registered on the twin, `eval()` and
    attributes set on it never reach `model`, which other threads may be running. Weights aren't
    copied: training `model` trains its twins, and gradients through a twin accumulate in `model`.
    """
    twins = {module: _alone(module) for module in model.modules()}
    for made in twins.values():
        children = vars(made)["_modules"]
        children.update({name: twins.get(child) for name, child in children.items()})
    return twins[model]


def shadow(module: nn.Module, name: str, value: Any) -> None:
    """Make a twin's module compute with `value` in place of its parameter, buffer or child `name`.

    The original stays registered: `parameters()`, `state_dict()` and `save_hf` still see it.
    """
    vars(module)[name] = value  # found before nn.Module looks in its tables of parameters etc.


def _alone(module: nn.Module) -> nn.Module:
    """Copy one module: the copy shares tensors and children, but has its own tables of them."""
    made = copy.copy(module)
    tables = {name: value for name, value in vars(made).items() if isinstance(value, TABLES)}
    vars(made).update({name: table.copy() for name, table in tables.items()})
    return made
