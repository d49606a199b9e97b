"""Read and write checkpoints in the layout of DeepSeek and of transformers' DeepseekV3ForCausalLM.

Every tensor of a checkpoint has a slot: the view of the model's own memory that holds it. Loading
copies files into slots and saving copies slots into files, so names are listed only once.
"""

import dataclasses
import functools
import numbers
import secrets
import warnings
from pathlib import Path

import torch
from torch import Tensor

from mini_moe.files import replace_files
from mini_moe.hf_config import config_from_hf, config_to_hf
from mini_moe.hf_files import (
    INDEX,
    WEIGHTS,
    Stored,
    check_values,
    checkpoint_files,
    read_json,
    read_tensors,
    tensor_shapes,
)
from mini_moe.hf_layout import (
    WEIGHT_TYPES,
    check_as_built,
    check_files,
    count_mtp_layers,
    duplicates,
    empty_model,
    slots,
    unwrapped,
)
from mini_moe.model import Transformer
from mini_moe.text import Tokenizer
from mini_moe.text.tokenizer import END_OF_TEXT


def load_hf(
    folder: str | Path, dtype: torch.dtype = torch.float32, *, mtp: bool = False
) -> Transformer:
    """Load the model in a folder with config.json and *.safetensors, in evaluation mode.

    Accepts DeepSeek-V3 and V2, Kimi K2, and anything written by `save_hf`. Settings in config.json
    mean the same as in transformers or are refused; a warning lists those that are ignored.
    Reads single files and shards with an index; block-FP8 weights are multiplied by their
    `weight_scale_inv`. The expert bias stays in fp32. MTP layers don't affect the logits and, as in
    transformers, are not loaded; `mtp=True` loads them if the files have any.
    A tokenizer.json becomes `model.tokenizer`; if it isn't supported, a warning says why and
    `model.tokenizer` is None. `encode` adds no begin-of-text token. No code in the folder is run.

    Raises: FileNotFoundError if the folder has no checkpoint; ValueError naming the file or tensor
    if something is truncated, missing, extra, misshapen or not finite.
    Source: DeepSeek-V3's README_WEIGHTS; transformers `models/deepseek_v3`.
    """
    check_dtype(dtype)
    folder = Path(folder)
    files = checkpoint_files(folder)
    content = read_json(folder / "config.json")
    found = tensor_shapes(files)
    config = config_from_hf(content, count_mtp_layers(found))
    check_files(config, found)
    if not mtp:  # left out only after checking the files
        config = dataclasses.replace(config, n_mtp_layers=0)
    model = empty_model(config).to(dtype).to_empty(device="cpu")
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    fill(model, found)
    attach_tokenizer(model, folder, content)
    return model.eval()


def fill(model: Transformer, found: dict[str, Stored]) -> None:
    """Copy a checkpoint's tensors into the model, one at a time."""
    targets, repeated = slots(model), duplicates(model.config)
    for name, tensor in read_tensors(found, set(targets)):
        targets[name].copy_(tensor)
        if not torch.isfinite(targets[name]).all():
            raise ValueError(f"{name} holds numbers beyond the range of {targets[name].dtype}")
    for name, tensor in read_tensors(found, set(repeated)):
        target = targets[repeated[name]]
        if not torch.equal(tensor.to(target.dtype), target):
            raise ValueError(f"{name} differs from {repeated[name]}, but the two should be equal")


def save_hf(
    model: Transformer,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json, safetensors and tokenizer.json for `load_hf` and transformers to read.

    A model that is not exactly a DeepSeek-V3 or V2 (a different router or norms) gets a config.json
    that only `load_hf` accepts, so nothing else can misread it. New files are written next to the
    old ones and replace them only once all are complete. With `dtype`, everything but the expert
    bias is rounded to it. A model wrapped by torch.compile or for data parallelism is saved without
    the wrapper.

    Raises: ValueError if the model would not load back unchanged (parts replaced; tensors added,
    removed, misshapen or not finite; a changed config); OSError if the disk is full or the folder
    can't be written. In both cases, the old files are kept.
    """
    check_dtype(dtype)
    if not isinstance(max_shard_bytes, numbers.Real) or not max_shard_bytes >= 1:
        raise ValueError(f"max_shard_bytes={max_shard_bytes!r} must be at least 1")
    model = unwrapped(model)
    check_as_built(model)
    check_tokenizer(model)
    tensors = tensors_to_write(model, dtype)
    shards = split_shards(tensors, max_shard_bytes)
    files: dict[str, object] = {}
    if len(shards) == 1:
        files[WEIGHTS] = shards[0]
    else:
        mark = secrets.token_hex(4)  # keeps shards of two saves apart, even if one is interrupted
        numbered = {
            f"model-{mark}-{i:05}-of-{len(shards):05}.safetensors": shard
            for i, shard in enumerate(shards, start=1)
        }
        files.update(numbered)
        where = {name: file for file, shard in numbered.items() for name in shard}
        size = sum(t.nbytes for t in tensors.values())
        files[INDEX] = {"metadata": {"total_size": size}, "weight_map": where}
    widest = functools.reduce(torch.promote_types, (p.dtype for p in model.parameters()))
    end = 0 if model.tokenizer is None else model.tokenizer.end_of_text_id
    files["config.json"] = config_to_hf(model.config) | {
        "dtype": str(dtype or widest).removeprefix("torch."),
        "bos_token_id": 0 if end == 0 else None,
        "eos_token_id": end,
    }
    files |= tokenizer_files(model.tokenizer)
    stale = (INDEX, "model*.safetensors", "tokenizer.json", "tokenizer_config.json")
    replace_files(Path(folder), files, stale)


def tensors_to_write(model: Transformer, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Map checkpoint names to CPU tensors in the dtype to write; no two share memory."""
    tensors = {
        name: view.to("cpu", torch.float32 if name.endswith("_bias") else dtype).contiguous()
        for name, view in slots(model).items()
    }
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda pair: pair[1].data_ptr()):
        check_values(name, tensor)  # what is finite in fp32 may not be in float16
        if tensor.data_ptr() < end:  # safetensors refuses tensors that share memory
            tensors[name] = tensor.clone()
        end = max(end, tensor.data_ptr() + tensor.nbytes)
    return tensors


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise ValueError for a dtype that `load_hf` can't read back without scales."""
    if dtype is not None and dtype not in WEIGHT_TYPES:
        types = ", ".join(str(t) for t in WEIGHT_TYPES)
        raise ValueError(f"dtype: one of {types} expected, got {dtype!r}")


def check_tokenizer(model: Transformer) -> None:
    """Raise ValueError for a tokenizer that doesn't fit the model."""
    tokenizer = model.tokenizer
    if not isinstance(tokenizer, Tokenizer | None):
        kind = type(tokenizer).__name__
        raise ValueError(f"model.tokenizer: a mini_moe.text.Tokenizer or None expected, got {kind}")
    if tokenizer is not None and tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(
            f"tokenizer: at most vocab_size={model.config.vocab_size} entries expected, "
            f"got {tokenizer.vocab_size}"
        )


def attach_tokenizer(model: Transformer, folder: Path, content: dict) -> None:
    """Give the model the folder's tokenizer; if it isn't supported, warn and leave it None.

    Raises: ValueError if tokenizer.json is not JSON.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    read_json(path)
    try:
        end = end_of_text(folder, content)
        model.tokenizer = Tokenizer.from_json(path.read_text(encoding="utf-8"), end)
        check_tokenizer(model)
    except ValueError as error:
        model.tokenizer = None
        warnings.warn(f"model.tokenizer is None: {path} is not supported: {error}", stacklevel=3)


def end_of_text(folder: Path, content: dict) -> int | str | None:
    """Return the end-of-text token or its id, from the tokenizer's or else the model's settings."""
    names = ("tokenizer_config.json", "generation_config.json")
    settings, generation = (
        read_json(folder / name) if (folder / name).is_file() else {} for name in names
    )
    token = settings.get("eos_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str):
        return token
    ids = generation.get("eos_token_id", content.get("eos_token_id"))
    first = ids[0] if isinstance(ids, list) and ids else ids
    return first if type(first) is int else None


def tokenizer_files(tokenizer: Tokenizer | None) -> dict[str, object]:
    """Return the tokenizer's files; one names the end-of-text token if it isn't our default."""
    if tokenizer is None:
        return {}
    files: dict[str, object] = {"tokenizer.json": tokenizer.to_json()}
    if tokenizer.end_of_text not in (END_OF_TEXT, None):
        kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
        files["tokenizer_config.json"] = kind | {"eos_token": tokenizer.end_of_text}
    return files


def split_shards(tensors: dict[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Split the tensors, in order, into shards of at most `most` bytes or one tensor."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards
