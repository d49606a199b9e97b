"""The files of a checkpoint folder: find and read its tensors without trusting the files."""

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
    """The location of a tensor that has not been read yet."""

    file: Path
    shape: list[int]


def checkpoint_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint folder, from its index if it has one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r}: no such folder")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"folder={str(folder)!r} has no config.json")
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise ValueError(f"{folder / INDEX}: a weight_map from tensors to files expected")
        files = [folder / file for file in sorted(set(index.values()))]
        if outside := [f.name for f in files if f.parent != folder or f.suffix != ".safetensors"]:
            raise ValueError(
                f"{folder / INDEX}: names of *.safetensors files expected, got {outside}"
            )
    else:
        files = [folder / WEIGHTS]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(f"folder={str(folder)!r} lacks {', '.join(missing) or 'weights'}")
    return files


def read_json(path: Path) -> dict:
    """Return the object in a JSON file; raise ValueError naming the file if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object expected, got {type(content).__name__}")
    return content


def tensor_shapes(files: list[Path]) -> dict[str, Stored]:
    """Return each tensor's file and shape, reading only the headers.

    Tensors without elements are left out: transformers writes them for zero shared experts.
    Raises: ValueError naming a file that is truncated or not safetensors, or a repeated tensor.
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
    """Yield (name, tensor) of those wanted, dequantised, one at a time to limit memory."""
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
    """Raise ValueError unless a tensor holds finite floats that need no further scaling."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: floating-point numbers expected, got {tensor.dtype}")
    if tensor.dtype.itemsize == 1:
        raise ValueError(f"{name} is {tensor.dtype}, but the checkpoint lacks {name}{SCALE}")
    if not torch.isfinite(tensor.float()).all():
        raise ValueError(f"{name} holds values that are not finite")


def check_quantization(settings: object) -> None:
    """Raise ValueError unless weights are unquantised or in DeepSeek's FP8 blocks."""
    if settings is None:
        return
    known = isinstance(settings, dict) and settings.get("quant_method") == "fp8"
    if not known or settings.get("weight_block_size") != [FP8_BLOCK, FP8_BLOCK]:
        raise ValueError(
            f"config.json: quantization_config with quant_method='fp8' and weight_block_size="
            f"[{FP8_BLOCK}, {FP8_BLOCK}] expected, got {settings!r}"
        )


def dequantise(name: str, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply an FP8 weight by its scale per 128 × 128 block, despite "_inv" in the name.

    Source: DeepSeek-V3's README_WEIGHTS and inference/kernel.py.
    """
    if weight.ndim != 2 or weight.dtype.itemsize != 1 or not weight.is_floating_point():
        raise ValueError(
            f"{name}{SCALE} belongs to an FP8 matrix, got {weight.dtype} {list(weight.shape)}"
        )
    expected = [-(-size // FP8_BLOCK) for size in weight.shape]
    if list(scale.shape) != expected:
        raise ValueError(f"{name}{SCALE}: {expected} expected, got {list(scale.shape)}")
    rows = scale.float().repeat_interleave(FP8_BLOCK, dim=0)[: weight.shape[0]]
    return weight.float() * rows.repeat_interleave(FP8_BLOCK, dim=1)[:, : weight.shape[1]]
