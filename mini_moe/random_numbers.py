"""A private source of random numbers, separate from the generator the whole process shares."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# All functions that draw random numbers. Dropout is missing because it takes no generator, and
# nothing in this package uses it.
DRAWS = {
    getattr(home, name)
    for home, names in (
        (
            torch,
            "bernoulli multinomial normal rand rand_like randint randint_like randn randn_like",
        ),
        (torch, "randperm"),
        (Tensor, "bernoulli bernoulli_ exponential_ multinomial normal_ random_ uniform_"),
        (nn.init, "kaiming_normal_ kaiming_uniform_ normal_ trunc_normal_ uniform_"),
        (nn.init, "xavier_normal_ xavier_uniform_"),
    )
    for name in names.split()
}


class OwnRandomNumbers(TorchFunctionMode):
    """Context manager that makes this thread draw from its own generator, on the CPU.

    The numbers match those after `torch.manual_seed(seed)` bit for bit, even in modules whose
    constructors take no generator. `torch.manual_seed` and `torch.random.fork_rng`, by contrast,
    change the one generator all threads share: a training run in a background thread and a notebook
    cell would disturb each other's numbers. An explicit `generator=` takes precedence.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWS and kwargs.get("generator") is None:
            kwargs = kwargs | {"generator": self.generator}
        return func(*args, **kwargs)
