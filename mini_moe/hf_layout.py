"""Which tensors a model's checkpoint holds, and under which names, for reading and writing.

Both use a model without memory, built from the config on the meta device, so that what is written
is what will be read.
"""

import dataclasses
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.hf_files import SCALE, Stored
from mini_moe.model import Transformer
from mini_moe.model.experts import Experts

WEIGHT_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
COMPILED = "_orig_mod"  # torch.compile's name for the module that it wraps


def slots(model: Transformer) -> dict[str, Tensor]:
    """Map checkpoint names to the views of the model's memory that these tensors fill."""
    found = {}
    experts = {plain(name) for name, part in model.named_modules() if isinstance(part, Experts)}
    for name, tensor in state_of(model).items():
        prefix, _, last = name.rpartition(".")
        hf_prefix = hf_name(prefix, model.config)
        if prefix not in experts:
            found[f"{hf_prefix}.{last}"] = tensor
            continue
        for expert in range(model.config.n_routed_experts):
            if last == "down_proj":
                found[f"{hf_prefix}.{expert}.down_proj.weight"] = tensor[expert]
            else:
                found[f"{hf_prefix}.{expert}.gate_proj.weight"] = tensor[expert, 0]
                found[f"{hf_prefix}.{expert}.up_proj.weight"] = tensor[expert, 1]
    return found


def state_of(model: Transformer) -> dict[str, Tensor]:
    """Map the model's own names to its parameters and buffers, leaving out a tied head."""
    state = {plain(name): tensor for name, tensor in model.state_dict().items()}
    if model.config.tie_embeddings:
        state.pop("lm_head.weight", None)
    return state


def plain(name: str) -> str:
    """Return a module's or parameter's name without torch.compile's additions."""
    return ".".join(part for part in name.split(".") if part != COMPILED)


def hf_name(name: str, config: ModelConfig) -> str:
    """Return a module's name in the checkpoint; MTP modules are numbered as further layers."""
    if name == "lm_head":
        return name
    if match := re.match(r"mtp\.(\d+)\.(.*)", name):
        rest = match[2].removeprefix("block.")
        rest = "shared_head.norm" if rest == "norm" else rest
        return f"model.layers.{config.n_layers + int(match[1])}.{rest}"
    return f"model.{name}"


def duplicates(config: ModelConfig) -> dict[str, str]:
    """Map redundant names that a checkpoint may hold to the names that they repeat."""
    embed = "model.embed_tokens.weight"
    head = embed if config.tie_embeddings else "lm_head.weight"
    repeated = {"lm_head.weight": embed} if config.tie_embeddings else {}
    for layer in range(config.n_layers, config.n_layers + config.n_mtp_layers):
        repeated[f"model.layers.{layer}.embed_tokens.weight"] = embed
        repeated[f"model.layers.{layer}.shared_head.head.weight"] = head
    return repeated


def empty_model(config: ModelConfig) -> Transformer:
    """Build the model without memory, to compare it with files or another model.

    Raises: ValueError for a config whose tensors are too large for PyTorch to describe.
    """
    try:
        with torch.device("meta"):
            return Transformer(config)
    except (RuntimeError, OverflowError) as error:
        raise ValueError(f"config.json describes impossibly large tensors: {error}") from error


def count_mtp_layers(found: Iterable[str]) -> int:
    """Count the MTP layers in the files, whatever config.json says."""
    return sum(bool(re.fullmatch(r"model\.layers\.\d+\.eh_proj\.weight", name)) for name in found)


def check_files(config: ModelConfig, found: dict[str, Stored]) -> None:
    """Raise ValueError naming tensors that are missing from the files, unknown or misshapen."""
    asked = config.n_layers + config.n_moe_layers * config.n_routed_experts
    if asked > len(found):
        raise ValueError(
            f"config.json: n_layers={config.n_layers} and n_routed_experts="
            f"{config.n_routed_experts} require more tensors than the {len(found)} in the files"
        )
    expected, repeated = slots(empty_model(config)), duplicates(config)
    scales = {name for name in found if name.endswith(SCALE) and name.removesuffix(SCALE) in found}
    computed = {name for name in found if name.endswith(".rotary_emb.inv_freq")}
    check_names("checkpoint", set(found) - scales - computed - set(repeated), set(expected))
    for name, stored in found.items():
        target = expected.get(repeated.get(name, name))
        if target is not None and stored.shape != list(target.shape):
            raise ValueError(f"{name}: {list(target.shape)} expected, got {stored.shape}")


def check_names(subject: str, found: set[str], expected: set[str]) -> None:
    """Raise ValueError naming what is missing and what is unknown."""
    faults = [
        f"{verb} {len(names)} {kind}tensor(s): "
        + ", ".join(sorted(names)[:5])
        + ", …" * (len(names) > 5)
        for verb, kind, names in (
            ("lacks", "", expected - found),
            ("has", "unknown ", found - expected),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{subject} {'; '.join(faults)}")


def unwrapped(model: nn.Module) -> Transformer:
    """Return the Transformer inside any wrappers of torch.compile and data parallelism.

    Raises: ValueError for anything else.
    """
    inner: object = model
    while type(inner) is not Transformer:
        parts = getattr(inner, "_modules", {})
        wrapper = isinstance(inner, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = parts.get("module" if wrapper else COMPILED)
        if inner is None:
            raise ValueError(f"model: a Transformer expected, got {type(model).__name__}")
    return inner


def check_as_built(model: Transformer) -> None:
    """Raise ValueError unless the model is, part by part, what its config builds.

    A checkpoint holds a config and tensors. A replaced module, an added tensor or a setting changed
    after construction would be lost, and a different model would be loaded.
    """
    if not isinstance(model.config, ModelConfig):
        raise ValueError(f"model.config: a ModelConfig expected, got {type(model.config).__name__}")
    built = empty_model(dataclasses.replace(model.config))  # replace() rechecks the config
    _check_tensors(model, built)
    parts = {plain(name): part for name, part in model.named_modules(remove_duplicate=False)}
    if added := parts.keys() - dict(built.named_modules()).keys():
        raise ValueError(
            f"model has parts that its config does not build: {', '.join(sorted(added))}"
        )
    for name, expected in built.named_modules():
        part, place = parts.get(name), f"model.{name}".removesuffix(".")
        if type(part) is not type(expected) or "forward" in vars(part):
            kind = "a custom forward" if type(part) is type(expected) else type(part).__name__
            raise ValueError(f"{place}: {type(expected).__name__} as built expected, got {kind}")
        for setting, value in _settings(expected).items():
            if vars(part).get(setting) != value:
                raise ValueError(
                    f"{place}.{setting} is {vars(part).get(setting)!r}, "
                    f"but model.config implies {value!r}"
                )


def _settings(part: nn.Module) -> dict[str, object]:
    """Return the values that a module computes with, apart from tensors and submodules."""
    kinds = (bool, int, float, str, type(None), ModelConfig)
    return {
        name: value
        for name, value in vars(part).items()
        if isinstance(value, kinds)
        and not name.startswith("_")
        and name not in ("training", "tokenizer")
    }


def _check_tensors(model: Transformer, built: Transformer) -> None:
    """Raise ValueError naming a tensor that is missing, unknown, misshapen or not of floats."""
    held, expected = state_of(model), state_of(built)
    check_names("model", set(held), set(expected))
    for name, tensor in held.items():
        plainly = tensor.layout == torch.strided and not tensor.is_meta
        if not plainly or type(tensor.cpu()) is not Tensor or tensor.dtype not in WEIGHT_TYPES:
            kind = f"{type(tensor).__name__} {tensor.dtype} {tensor.layout} on {tensor.device}"
            raise ValueError(f"{name}: a plain tensor of floats expected, got {kind}")
        if tensor.shape != expected[name].shape:
            wanted = list(expected[name].shape)
            raise ValueError(f"{name}: {wanted} expected, got {list(tensor.shape)}")
    if model.config.tie_embeddings:
        head, embedding = model.lm_head.weight, model.embed_tokens.weight
        if head is not embedding and not torch.equal(head, embedding):
            raise ValueError("lm_head.weight differs from embed_tokens.weight: tied by the config")
