"""Random numbers of one's own, apart from the generator that the whole process shares."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

# What draws, by where it is found. Dropout is missing: it takes no generator, and nothing here
# drops anything.
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
    """Inside, this thread draws from a generator of its own, on the CPU.

    The numbers are those that follow `torch.manual_seed(seed)`, bit for bit, also for modules whose
    constructors know of no generator. But `torch.manual_seed` and `torch.random.fork_rng` change
    the one generator of all threads: a training run in a thread would change the numbers that a
    cell draws beside it, and the cell those of the run. An explicit `generator=` goes first.
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
