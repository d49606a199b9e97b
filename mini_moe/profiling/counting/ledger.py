"""Track every tensor's memory from allocation to release."""

import weakref
from collections import defaultdict
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mini_moe.ops.sorted_experts import most_rows


class Ledger(TorchDispatchMode):
    """Counts bytes alive, and their peak, while active. Views share the entry of their storage.

    It sees what operations return. Temporary memory inside our own experts operation is added by
    `inside_experts`; a kernel's private scratch memory is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self._most = 0
        self._entries: dict[int, weakref.ref] = {}

    @property
    def peak(self) -> int:
        """Most bytes alive at once since the last restart."""
        self._most = max(self._most, self.alive)
        return self._most

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = self.peak
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.enter(leaf)
        if sums_in_place(func, args):
            self._most = before  # decide once the old sum is released; if so, it was in place
        elif func.namespace == "mini_moe":
            self._most = max(self.peak, self.alive + inside_experts(func, args))
        return out

    def enter(self, tensor: Tensor) -> None:
        """Add a tensor's storage unless it is already known."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._entries and self._entries[key]() is storage:
            return

        def strike(_: object) -> None:
            self.alive -= size
            self._entries.pop(key, None)

        self._entries[key] = weakref.ref(storage, strike)
        self.alive += size
        self._most = max(self._most, self.alive)

    def restart(self) -> None:
        """Forget the peak so far."""
        self._most = self.alive


def sums_in_place(func, args: tuple) -> bool:
    """Whether a backward pass is adding another gradient of the same tensor to the first.

    Autograd adds in place if nothing else references the first and it is not a view, but only for
    real tensors; with fake tensors each sum is a new tensor, and the first is released immediately.
    """
    backward = torch._C._current_graph_task_id() >= 0
    return backward and func is torch.ops.aten.add.Tensor and not args[0]._is_view()


def inside_experts(func, args: tuple) -> int:
    """Return the peak bytes that `sorted_experts` holds in addition to its results.

    Forward: rows of x, hidden and output. Backward: rows of x, of both gradients and of six hidden
    tensors once all results exist, or of two more hidden ones before the gradients of weights and
    x exist. Blocks are padded by an amount that depends on the routing; half the maximum is a fair
    guess. The compiled kernels use their own scratch memory, which torch does not allocate.
    """
    name = func._schema.name.partition("::")[2]
    if name not in ("sorted_experts", "sorted_experts_backward"):
        return 0
    x, expert_ids, _, gate_up = args[1:5] if name.endswith("backward") else args[:4]
    experts, _, width, d = gate_up.shape
    rows = (expert_ids.numel() + most_rows(expert_ids.numel(), experts)) // 2
    numbers = rows * (2 * d + width)
    if name.endswith("backward"):
        early = rows * (2 * d + 8 * width) - gate_up.numel() - x.numel()
        numbers = max(rows * (3 * d + 6 * width), early)
    return numbers * x.element_size()


class SavedByModule:
    """Counts, while active, the bytes that each module saves for the backward pass, by path.

    A storage belongs to the first module that saves it. Parameters are not counted, but copies of
    them in another dtype are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.bytes: dict[str, int] = defaultdict(int)
        self._model, self._stack = model, [""]
        own = (*model.parameters(), *model.buffers())
        self._known = {t.untyped_storage()._cdata for t in own}

    def __enter__(self) -> "SavedByModule":
        self._exit = ExitStack()
        for path, module in self._model.named_modules():
            before = module.register_forward_pre_hook(lambda *_, p=path: self._stack.append(p))
            after = module.register_forward_hook(lambda *_: self._stack.pop() and None)
            self._exit.callback(before.remove)
            self._exit.callback(after.remove)
        hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor)
        self._exit.enter_context(hooks)
        return self

    def __exit__(self, *error: object) -> None:
        self._exit.close()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:  # saved storages stay alive, so addresses are unique
            self._known.add(storage._cdata)
            self.bytes[self._stack[-1]] += storage.nbytes()
        return tensor
