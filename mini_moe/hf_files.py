"""The files of a checkpoint folder: where each tensor is, and reading them with suspicion."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
FP8_BLOCK = 128  # rows and columns that share one scale
SCALE = "_scale_inv"  # suffix of the tensor that holds an FP8 weight's scales


class Stored(NamedTuple):
    """A tensor in a file, not read yet."""

    file: Path
    shape: list[int]


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, from its index where it has one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r}: no such folder")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"folder={str(folder)!r} has no config.json")
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise ValueError(f"{folder / INDEX}: weight_map from tensor to file expected")
        files = [folder / file for file in sorted(set(index.values()))]
        if outside := [f.name for f in files if f.parent != folder or f.suffix != ".safetensors"]:
            raise ValueError(f"{folder / INDEX}: names of *.safetensors expected, got {outside}")
    else:
        files = [folder / WEIGHTS]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(f"folder={str(folder)!r} lacks {', '.join(missing) or 'weights'}")
    return files


def read_json(path: Path) -> dict:
    """The object in a JSON file, or ValueError naming it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object expected, got {type(content).__name__}")
    return content


def tensor_shapes(files: list[Path]) -> dict[str, Stored]:
    """Where each tensor is and its shape, from the files' headers alone.

    Tensors without elements are left out: transformers writes them for zero shared experts.
    Raises: ValueError naming a file that is truncated or something else, or a tensor found twice.
    """
    found: dict[str, Stored] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
        if twice := sorted(set(shapes) & set(found)):
            raise ValueError(f"{path} holds {twice[0]}, and so does {found[twice[0]].file}")
        found |= {name: Stored(path, shape) for name, shape in shapes.items() if 0 not in shape}
    return found


def read_tensors(found: dict[str, Stored], wanted: set[str]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of those wanted, FP8 blocks multiplied out; one at a time to stay small."""
    by_file = sorted((stored.file, name) for name, stored in found.items() if name in wanted)
    for path, group in itertools.groupby(by_file, key=lambda pair: pair[0]):
        with safe_open(path, framework="pt") as file:
            for _, name in group:
                scale = found.get(name + SCALE)
                tensor = file.get_tensor(name)
                if scale is not None:
                    with safe_open(scale.file, framework="pt") as scale_file:
                        tensor = dequantise(name, tensor, scale_file.get_tensor(name + SCALE))
                check_values(name, tensor)
                yield name, tensor


def check_values(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless the tensor holds finite floating-point numbers, scaled if FP8."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: floating-point numbers expected, got {tensor.dtype}")
    if tensor.dtype.itemsize == 1:
        raise ValueError(f"{name} is {tensor.dtype}, but the checkpoint lacks {name}{SCALE}")
    if not torch.isfinite(tensor.float()).all():
        raise ValueError(f"{name} holds values that are not finite")


def check_quantization(settings: object) -> None:
    """Raise ValueError unless weights are plain or DeepSeek's FP8 blocks."""
    if settings is None:
        return
    known = isinstance(settings, dict) and settings.get("quant_method") == "fp8"
    if not known or settings.get("weight_block_size") != [FP8_BLOCK, FP8_BLOCK]:
        raise ValueError(
            f"config.json: quantization_config with quant_method='fp8' and weight_block_size="
            f"[{FP8_BLOCK}, {FP8_BLOCK}] expected, got {settings!r}"
        )


def dequantise(name: str, weight: Tensor, scale: Tensor) -> Tensor:
    """FP8 weight × the scale of its 128 × 128 block. "_inv" in the name, but it multiplies.

    Source: DeepSeek-V3's README_WEIGHTS and inference/kernel.py.
    """
    if weight.ndim != 2 or weight.dtype.itemsize != 1 or not weight.is_floating_point():
        raise ValueError(
            f"{name}{SCALE} expects an FP8 matrix, got {weight.dtype} {list(weight.shape)}"
        )
    expected = [-(-size // FP8_BLOCK) for size in weight.shape]
    if list(scale.shape) != expected:
        raise ValueError(f"{name}{SCALE}: {expected} expected, got {list(scale.shape)}")
    rows = scale.float().repeat_interleave(FP8_BLOCK, dim=0)[: weight.shape[0]]
    return weight.float() * rows.repeat_interleave(FP8_BLOCK, dim=1)[:, : weight.shape[1]]
