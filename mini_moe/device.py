"""Where tensors are and work is done."""

import torch

CPU = torch.device("cpu")
HERE = {
    "cpu": lambda: 1,
    "cuda": torch.cuda.device_count,
    "mps": torch.mps.device_count,
}  # kind of device → how many of it this machine has


def as_device(device: str | torch.device | None = None) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1", "mps"; the best one here for "auto" or None.

    Raises: ValueError for any other name, or a device that this machine does not have.
    """
    if device is None or device == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if HERE[kind]()))
    try:
        found = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        found = None
    if found is None or found.type not in HERE:
        raise ValueError(f"device: 'auto', 'cpu', 'cuda' or 'mps' expected, got {str(device)!r}")
    count = HERE[found.type]()
    if (found.index or 0) >= count:
        raise ValueError(
            f"device: one that is here expected, got {str(device)!r}; torch {torch.__version__} "
            f"finds {count} of {found.type!r}"
        )
    return found


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def wait_for(device: torch.device) -> None:
    """Wait for all work that was started on a device; on the CPU none is ever left over."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
