"""Choose and query the device that holds tensors and does the work."""

import torch

CPU = torch.device("cpu")
HERE = {
    "cpu": lambda: 1,
    "cuda": torch.cuda.device_count,
    "mps": torch.mps.device_count,
}  # kind of device → how many this machine has


def as_device(device: str | torch.device | None = None) -> torch.device:
    """Return the named device ("cpu", "cuda", "cuda:1", "mps"), or the best one for "auto" or None.

    Raises: ValueError for any other name, or for a device that this machine does not have.
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
            f"device: an available one expected, got {str(device)!r}; torch {torch.__version__} "
            f"finds {count} of type {found.type!r}"
        )
    return found


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device that a model's weights are on."""
    return next(model.parameters()).device


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished all its work; a CPU never has any pending."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
