"""Read and write checkpoints in the layout of DeepSeek and of transformers' DeepseekV3ForCausalLM.

Every tensor of a checkpoint has a slot: the view of the model's own memory that holds it. Loading
copies files into slots and saving copies slots into files, so nothing is listed twice.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mini_moe.config import ModelConfig
from mini_moe.files import replace_files
from mini_moe.hf_config import config_from_hf, config_to_hf
from mini_moe.model import Transformer
from mini_moe.model.experts import Experts
from mini_moe.model.router import Router
from mini_moe.text import Tokenizer

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"
FP8_BLOCK = 128  # rows and columns that share one scale


def load_hf(folder: str | Path, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model in a folder with config.json and *.safetensors, ready to evaluate.

    Reads single files and shards with an index; block-FP8 weights are multiplied by their
    `weight_scale_inv`; MTP layers are loaded where the files have them. The expert bias stays fp32.
    A tokenizer.json in the folder becomes `model.tokenizer`.

    Raises: FileNotFoundError for a folder without a checkpoint; ValueError that names the file or
    tensor when something is truncated, missing, extra, misshapen, or not finite.
    Source: DeepSeek-V3's README_WEIGHTS; transformers `models/deepseek_v3`.
    """
    folder = Path(folder)
    files = checkpoint_files(folder)
    names = {name: path for path in files for name in tensor_names(path)}
    config = config_from_hf(read_json(folder / "config.json"), count_mtp_layers(names))
    with torch.device("meta"):
        model = Transformer(config)
    model = model.to(dtype).to_empty(device="cpu")
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    for module in model.modules():
        if isinstance(module, Router) and module.e_score_correction_bias is not None:
            module.e_score_correction_bias = module.e_score_correction_bias.float()
    targets = slots(model)
    check_names(set(names), set(targets), duplicates(config))
    for path in files:
        for name, tensor in read_tensors(path, names):
            fill(name, tensor, targets, config)
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
    and take their place only once all are whole. With `dtype`, matrices are rounded to it; the
    expert bias stays fp32.

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
        numbered = {
            f"model-{i:05}-of-{len(shards):05}.safetensors": shard
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
    replace_files(folder, files, stale=("model*.safetensors", INDEX))


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


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder, from its index where it has one."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r}: no such folder")
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"folder={str(folder)!r} has no config.json")
    if (folder / INDEX).exists():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
            raise ValueError(f"{folder / INDEX}: weight_map from tensor to file expected")
        files = [folder / Path(file).name for file in sorted(set(index.values()))]
    else:
        files = [folder / WEIGHTS]
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        raise FileNotFoundError(f"folder={str(folder)!r} lacks {', '.join(missing) or 'weights'}")
    return files


def read_json(path: Path) -> dict:
    """The object in a JSON file, or ValueError naming it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object expected, got {type(content).__name__}")
    return content


def tensor_names(path: Path) -> list[str]:
    """Names in a safetensors file; ValueError naming it when it is truncated or something else.

    Tensors without elements are left out: transformers writes them for zero shared experts.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return [name for name in file.keys() if 0 not in file.get_slice(name).get_shape()]
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error


def read_tensors(path: Path, names: dict[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of a file, FP8 blocks multiplied out; one at a time to stay small."""
    scales = "_scale_inv"
    with safe_open(path, framework="pt") as file:
        for name in tensor_names(path):
            if name.endswith(scales):
                continue
            tensor = file.get_tensor(name)
            if name + scales in names:
                with safe_open(names[name + scales], framework="pt") as scale_file:
                    tensor = dequantise(name, tensor, scale_file.get_tensor(name + scales))
            yield name, tensor


def dequantise(name: str, weight: Tensor, scale: Tensor) -> Tensor:
    """FP8 weight × the scale of its 128 × 128 block. "_inv" in the name, but it multiplies.

    Source: DeepSeek-V3's README_WEIGHTS and inference/kernel.py.
    """
    expected = [-(-size // FP8_BLOCK) for size in weight.shape]
    if list(scale.shape) != expected:
        raise ValueError(f"{name}_scale_inv: {expected} expected, got {list(scale.shape)}")
    rows = scale.float().repeat_interleave(FP8_BLOCK, dim=0)[: weight.shape[0]]
    return weight.float() * rows.repeat_interleave(FP8_BLOCK, dim=1)[:, : weight.shape[1]]


def count_mtp_layers(names: dict[str, Path]) -> int:
    """MTP layers in the files, whatever config.json says."""
    return sum(bool(re.fullmatch(r"model\.layers\.\d+\.eh_proj\.weight", name)) for name in names)


def check_names(found: set[str], expected: set[str], repeated: dict[str, str]) -> None:
    """Raise ValueError naming tensors that the files lack or have too many of."""
    found = {name for name in found if name.removesuffix("_scale_inv") not in found - {name}}
    for kind, names in (
        ("lacks", expected - found),
        ("has unknown", found - expected - set(repeated)),
    ):
        if names:
            listed = ", ".join(sorted(names)[:5]) + (", …" if len(names) > 5 else "")
            raise ValueError(f"checkpoint {kind} {len(names)} tensor(s): {listed}")


def fill(name: str, tensor: Tensor, targets: dict[str, Tensor], config: ModelConfig) -> None:
    """Copy a tensor from a file into its slot; a repeated tensor must equal what it repeats."""
    repeats = duplicates(config).get(name)
    target = targets[repeats or name]
    if tensor.shape != target.shape:
        raise ValueError(f"{name}: {list(target.shape)} expected, got {list(tensor.shape)}")
    if not torch.isfinite(tensor.float()).all():
        raise ValueError(f"{name} holds values that are not finite")
    if repeats is None:
        target.copy_(tensor)


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
