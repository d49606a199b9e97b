"""A second device without hardware: the CPU under another name.

The CPU does the computing, so a run there ends as on the CPU. But an operation on tensors of both
devices raises, as it would with a GPU. Torch keeps the device until the process ends.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)

NAME = "elsewhere"


class Backend(_DummyBackendModule):
    """What torch requires of a device; nothing selects this one by itself."""

    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


class Hook(_DummyPrivateUse1Hook):
    def is_available(self):
        return False


_setup_privateuseone_for_python_backend(NAME, Backend(), Hook())
DEVICE = torch.device(NAME, 0)
COPIES = {"aten::_to_copy", "aten::copy_"}


class Elsewhere(torch.Tensor):
    """A tensor of the other device; `raw` holds its numbers."""

    @staticmethod
    def __new__(cls, raw):
        made = torch.Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(),
            dtype=raw.dtype, device=DEVICE,
        )  # fmt: skip
        made.raw = raw
        return made

    def tolist(self):
        return self.raw.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


class OtherDevice(TorchDispatchMode):
    """Context manager in which torch has the device DEVICE."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return run(func, args, kwargs or {})


def run(func, args, kwargs):
    """Run an operation on the underlying numbers, after checking its tensors' devices."""
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
    there = any(isinstance(t, Elsewhere) for t in tensors)
    name, wanted = func._schema.name, kwargs.get("device")
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and t.ndim]
    if there and strangers and name not in COPIES:
        raise RuntimeError(f"{name}: tensors on two devices, {DEVICE} and {strangers[0].device}")
    if wanted is not None:
        there = torch.device(wanted).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu")}
    elif name == "aten::copy_":
        there = isinstance(args[0], Elsewhere)
    raw = lambda x: x.raw if isinstance(x, Elsewhere) else x  # noqa: E731
    found = func(*tree_map(raw, args), **tree_map(raw, kwargs))
    if not there:
        return found
    known = {id(t.raw): t for t in tensors if isinstance(t, Elsewhere)}

    def wrap(x):
        return known.get(id(x), Elsewhere(x)) if isinstance(x, torch.Tensor) else x

    return tree_map(wrap, found)
