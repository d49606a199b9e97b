"""Read and write checkpoints in the layout of DeepSeek and of transformers' DeepseekV3ForCausalLM.

Every tensor of a checkpoint has a slot: the view of the model's own memory that holds it. Loading
copies files into slots and saving copies slots into files, so nothing is listed twice.
"""

import dataclasses
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.files import replace_files
from mini_moe.hf_config import config_from_hf, config_to_hf
from mini_moe.hf_files import (
    INDEX,
    SCALE,
    WEIGHTS,
    Stored,
    checkpoint_files,
    read_json,
    read_tensors,
    tensor_shapes,
)
from mini_moe.model import Transformer
from mini_moe.model.experts import Experts
from mini_moe.model.router import Router
from mini_moe.text import Tokenizer


def load_hf(
    folder: str | Path, dtype: torch.dtype = torch.float32, *, mtp: bool = False
) -> Transformer:
    """The model in a folder with config.json and *.safetensors, ready to evaluate.

    Reads single files and shards with an index; block-FP8 weights are multiplied by their
    `weight_scale_inv`. The expert bias stays fp32. MTP layers stay in the files, as in transformers
    and for the same logits; `mtp=True` loads those that are there.
    A tokenizer.json in the folder becomes `model.tokenizer`.

    Raises: FileNotFoundError for a folder without a checkpoint; ValueError that names the file or
    tensor when something is truncated, missing, extra, misshapen, or not finite.
    Source: DeepSeek-V3's README_WEIGHTS; transformers `models/deepseek_v3`.
    """
    folder = Path(folder)
    files = checkpoint_files(folder)
    content = read_json(folder / "config.json")
    found = tensor_shapes(files)
    config = config_from_hf(content, count_mtp_layers(found))
    model = empty_model(config, found)
    repeated = duplicates(config)
    check_names(set(found), set(slots(model)), repeated)
    check_shapes(found, slots(model), repeated)
    if config.n_mtp_layers and not mtp:  # compared with the files all the same
        config = dataclasses.replace(config, n_mtp_layers=0)
        model, repeated = empty_model(config, found), duplicates(config)

    model = model.to(dtype).to_empty(device="cpu")
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    for module in model.modules():
        if isinstance(module, Router) and module.e_score_correction_bias is not None:
            module.e_score_correction_bias = module.e_score_correction_bias.float()
    targets = slots(model)
    for name, tensor in read_tensors(found, set(targets)):
        targets[name].copy_(tensor)
    for name, tensor in read_tensors(found, set(repeated)):
        if not torch.equal(tensor.to(dtype), targets[repeated[name]]):
            raise ValueError(f"{name} differs from {repeated[name]}, which it should repeat")
    if (folder / "tokenizer.json").exists():
        model.tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return model.eval()


def save_hf(
    model: Transformer,
    folder: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5_000_000_000,
) -> None:
    """Write config.json, safetensors and tokenizer.json that `load_hf` and transformers read.

    A model that is not exactly DeepSeek-V3's (another router, other norms) gets a config.json that
    only `load_hf` accepts, so nothing else can misread it. Files are written beside the old ones
    and take their place only once all are whole. With `dtype`, all but the expert bias is
    rounded to it.

    Raises: OSError when the disk is full or the folder can't be written; the old files stay.
    """
    folder = Path(folder)
    targets = slots(model)
    tensors = {
        name: view.detach().to("cpu", dtype if "bias" not in name else torch.float32).contiguous()
        for name, view in targets.items()
    }
    shards = split_shards(tensors, max_shard_bytes)
    files: dict[str, object] = {}
    if len(shards) == 1:
        files[WEIGHTS] = shards[0]
    else:
        mark = secrets.token_hex(4)  # shards of two savings never mix, wherever one is cut off
        numbered = {
            f"model-{mark}-{i:05}-of-{len(shards):05}.safetensors": shard
            for i, shard in enumerate(shards, start=1)
        }
        files.update(numbered)
        where = {name: file for file, shard in numbered.items() for name in shard}
        size = sum(t.nbytes for t in tensors.values())
        files[INDEX] = {"metadata": {"total_size": size}, "weight_map": where}
    stored = dtype or next(model.parameters()).dtype
    files["config.json"] = config_to_hf(model.config) | {"dtype": str(stored).split(".")[-1]}
    if model.tokenizer is not None:
        files["tokenizer.json"] = model.tokenizer.to_json()
    replace_files(folder, files, stale=(INDEX, "model*.safetensors", "tokenizer.json"))


def slots(model: Transformer) -> dict[str, Tensor]:
    """Checkpoint name → the view of the model's memory that this tensor fills."""
    found = {}
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    experts = {name for name, module in model.named_modules() if isinstance(module, Experts)}
    for name, tensor in tensors.items():
        prefix, _, last = name.rpartition(".")
        hf_prefix = hf_name(prefix, model.config)
        if prefix not in experts:
            found[f"{hf_prefix}.{last}"] = tensor.data
            continue
        for expert in range(model.config.n_routed_experts):
            if last == "down_proj":
                found[f"{hf_prefix}.{expert}.down_proj.weight"] = tensor.data[expert]
            else:
                found[f"{hf_prefix}.{expert}.gate_proj.weight"] = tensor.data[expert, 0]
                found[f"{hf_prefix}.{expert}.up_proj.weight"] = tensor.data[expert, 1]
    return found


def hf_name(name: str, config: ModelConfig) -> str:
    """A module's name in the checkpoint; MTP modules are numbered on as layers."""
    if name == "lm_head":
        return name
    if match := re.match(r"mtp\.(\d+)\.(.*)", name):
        rest = match[2].removeprefix("block.")
        rest = "shared_head.norm" if rest == "norm" else rest
        return f"model.layers.{config.n_layers + int(match[1])}.{rest}"
    return f"model.{name}"


def duplicates(config: ModelConfig) -> dict[str, str]:
    """Names that a checkpoint may hold although they repeat another tensor → that tensor."""
    embed = "model.embed_tokens.weight"
    head = embed if config.tie_embeddings else "lm_head.weight"
    repeated = {"lm_head.weight": embed} if config.tie_embeddings else {}
    for layer in range(config.n_layers, config.n_layers + config.n_mtp_layers):
        repeated[f"model.layers.{layer}.embed_tokens.weight"] = embed
        repeated[f"model.layers.{layer}.shared_head.head.weight"] = head
    return repeated


def empty_model(config: ModelConfig, found: dict[str, Stored]) -> Transformer:
    """The model without memory, to compare with the files before any is allocated.

    Raises: ValueError for a config that asks for more layers or experts than files could hold.
    """
    asked = config.n_layers + config.n_moe_layers * config.n_routed_experts
    if asked > len(found):
        raise ValueError(
            f"config.json: n_layers={config.n_layers} and n_routed_experts="
            f"{config.n_routed_experts} ask for more tensors than the {len(found)} in the files"
        )
    try:
        with torch.device("meta"):
            return Transformer(config)
    except (RuntimeError, OverflowError) as error:
        raise ValueError(f"config.json describes impossibly large tensors: {error}") from error


def count_mtp_layers(found: Iterable[str]) -> int:
    """MTP layers in the files, whatever config.json says."""
    return sum(bool(re.fullmatch(r"model\.layers\.\d+\.eh_proj\.weight", name)) for name in found)


def check_names(found: set[str], expected: set[str], repeated: dict[str, str]) -> None:
    """Raise ValueError naming tensors that the files lack or have too many of."""
    scales = {name for name in found if name.endswith(SCALE) and name.removesuffix(SCALE) in found}
    for kind, names in (
        ("lacks", expected - found),
        ("has unknown", found - scales - expected - set(repeated)),
    ):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
            raise ValueError(f"checkpoint {kind} {len(names)} tensor(s): {listed}")


def check_shapes(
    found: dict[str, Stored], targets: dict[str, Tensor], repeated: dict[str, str]
) -> None:
    """Raise ValueError naming the first tensor whose shape is not the one config.json implies."""
    for name, stored in found.items():
        target = targets.get(repeated.get(name, name))
        if target is not None and stored.shape != list(target.shape):
            raise ValueError(f"{name}: {list(target.shape)} expected, got {stored.shape}")


def split_shards(tensors: dict[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Tensors in order, cut into files of at most `most` bytes, at least one tensor each."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > most:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards
