"""Convert between ModelConfig and the config.json of DeepSeek and transformers."""

import dataclasses
import warnings
from typing import NamedTuple

from mini_moe.config import ModelConfig
from mini_moe.hf_files import check_quantization

# config.json → ModelConfig, for entries with the same value
SAME_MEANING = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "first_k_dense_replace": "n_dense_layers",
    "intermediate_size": "d_ff",
    "max_position_embeddings": "max_seq_len",
    "tie_word_embeddings": "tie_embeddings",
    "rms_norm_eps": "norm_eps",
    "initializer_range": "init_std",
    "num_attention_heads": "n_heads",
    "q_lora_rank": "q_lora_rank",
    "kv_lora_rank": "kv_lora_rank",
    "qk_nope_head_dim": "qk_nope_head_dim",
    "qk_rope_head_dim": "qk_rope_head_dim",
    "v_head_dim": "v_head_dim",
    "n_routed_experts": "n_routed_experts",
    "n_shared_experts": "n_shared_experts",
    "num_experts_per_tok": "top_k",
    "moe_intermediate_size": "d_expert",
    "n_group": "n_expert_groups",
    "topk_group": "top_k_groups",
    "norm_topk_prob": "norm_topk_prob",
    "routed_scaling_factor": "route_scale",
}
YARN = {
    "factor": "yarn_factor",
    "original_max_position_embeddings": "yarn_original_seq_len",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
    "mscale": "yarn_mscale",
    "mscale_all_dim": "yarn_mscale_all_dim",
}


class Family(NamedTuple):
    """The fields that a `model_type` implies, and the settings supported for it."""

    fields: dict[str, object]  # of ModelConfig
    accepted: dict[str, tuple]  # entry of config.json → allowed values, default first


_ALWAYS = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "rope_interleave": (True,),
    "moe_layer_freq": (1,),
}
V3 = Family(
    {
        "score_function": "sigmoid",
        "expert_bias": True,
        "group_score": "top2_sum",
        "latent_norm_eps": 1e-6,
    },
    _ALWAYS | {"scoring_func": ("sigmoid",), "topk_method": ("noaux_tc",)},
)
V2 = Family(
    {
        "score_function": "softmax",
        "expert_bias": False,
        "group_score": "max",
        "latent_norm_eps": 1e-6,
        "norm_topk_prob": False,
    },
    _ALWAYS
    | {
        "scoring_func": ("softmax",),
        "topk_method": ("greedy", "group_limited_greedy"),
        "mlp_bias": (False,),
    },
)
FAMILIES = {"deepseek_v3": V3, "kimi_k2": V3, "deepseek_v2": V2}
OWN_TYPE = "mini_moe"
# entries that repeat another one: if they differ, transformers builds a different model
REPEATED = {
    "num_key_value_heads": "num_attention_heads",
    "head_dim": "qk_rope_head_dim",
    "num_local_experts": "n_routed_experts",
    "num_experts": "n_routed_experts",
}
# entries that don't affect the logits in evaluation mode
NO_EFFECT = set(
    "_attn_implementation _name_or_path architectures attention_dropout auto_map aux_loss_alpha "
    "bos_token_id chunk_size_feed_forward dtype eos_token_id ep_size id2label is_encoder_decoder "
    "label2id model_type num_mtp_layers num_nextn_predict_layers output_attentions "
    "output_hidden_states output_router_logits pad_token_id pretraining_tp problem_type "
    "return_dict router_aux_loss_coef seq_aux tokenizer_class torch_dtype transformers_version "
    "use_cache".split()
)
READ_ELSEWHERE = {"quantization_config", "original_max_position_embeddings", "qk_head_dim"}
READ_ELSEWHERE |= {"partial_rotary_factor", "rope_parameters", "rope_scaling", "rope_theta"}


def config_from_hf(content: dict, n_mtp_layers: int = 0) -> ModelConfig:
    """Build the ModelConfig for a config.json; the number of MTP layers comes from the weights.

    Warns about entries that are set but not used.
    Raises: ValueError naming an entry that is missing, contradictory or not supported.
    """
    kind = content.get("model_type")
    if kind == OWN_TYPE:
        return _config_from_own(content)
    if not isinstance(kind, str) or kind not in FAMILIES:
        types = ", ".join(f"'{name}'" for name in FAMILIES)
        raise ValueError(f"config.json: model_type {types} or '{OWN_TYPE}' expected, got {kind!r}")
    family = FAMILIES[kind]
    _check_settings(content, family)
    _warn_of_unknown(content, family)
    if family is V2:
        content = _groups_of_v2(content)
    optional = {"tie_word_embeddings", "initializer_range", "q_lora_rank"}
    if missing := set(SAME_MEANING) - set(content) - optional:
        raise ValueError(f"config.json lacks {', '.join(sorted(missing))}")
    fields = {ours: content[theirs] for theirs, ours in SAME_MEANING.items() if theirs in content}
    dense, layers = fields["n_dense_layers"], fields["n_layers"]
    if isinstance(dense, int) and isinstance(layers, int) and dense > layers > 0:
        fields["n_dense_layers"] = layers  # as in transformers: every layer is dense
    fields |= family.fields | rope_from_hf(content)
    return ModelConfig(**_floats_where_declared(fields), n_mtp_layers=n_mtp_layers)


def config_to_hf(config: ModelConfig) -> dict:
    """Return a model's config.json: of DeepSeek-V3 or V2 if it is exactly that, else our own type.

    Our own type sets `hidden_size` to null; otherwise, transformers' DeepSeek classes would ignore
    the unknown model_type and build their default model of 671 billion parameters.
    """
    values = _floats_where_declared(vars(config))  # transformers refuses 1 for 1.0
    kind = _family_of(config)
    if kind is None:
        return {"model_type": OWN_TYPE, "hidden_size": None} | values
    content = {theirs: values[ours] for theirs, ours in SAME_MEANING.items()}
    content |= {name: accepted[0] for name, accepted in FAMILIES[kind].accepted.items()}
    if kind == "deepseek_v2" and config.n_expert_groups > 1:
        content["topk_method"] = "group_limited_greedy"
    content |= {
        "architectures": ["Deepseek" + kind[-2:].upper() + "ForCausalLM"],
        "initializer_range": config.weight_std,
        "model_type": kind,
        "num_key_value_heads": config.n_heads,
        "num_nextn_predict_layers": config.n_mtp_layers,
        "rope_theta": values["rope_theta"],
    }
    if config.yarn_factor > 1:
        yarn = {theirs: values[ours] for theirs, ours in YARN.items()}
        content["rope_scaling"] = yarn | {"type": "yarn", "rope_type": "yarn"}
    return content


def _family_of(config: ModelConfig) -> str | None:
    """Return the published model_type whose code computes exactly this model, or None."""

    def fixed_as_in(family: Family) -> bool:
        return all(getattr(config, name) == value for name, value in family.fields.items())

    dense_mtp = config.n_moe_layers == 0 and config.n_mtp_layers > 0  # DeepSeek's MTP has experts
    if fixed_as_in(V3) and not dense_mtp:
        return "deepseek_v3"
    grouped = config.n_expert_groups > 1 or config.top_k_groups == 1
    even = config.d_model % config.n_heads == 0  # required by transformers' V2
    if fixed_as_in(V2) and grouped and even and not config.n_mtp_layers:
        return "deepseek_v2"
    return None


def rope_from_hf(content: dict) -> dict:
    """Return RoPE's base and YaRN's settings, from `rope_scaling` or else `rope_parameters`.

    As in transformers, `rope_scaling` replaces all of `rope_parameters`.
    Raises: ValueError naming a setting that is missing, not supported or contradictory.
    """
    stated = {name: content.get(name) or {} for name in ("rope_scaling", "rope_parameters")}
    for name, rope in stated.items():
        if not isinstance(rope, dict):
            raise ValueError(f"config.json: {name} must be an object, got {rope!r}")
    rope = stated["rope_scaling"] or stated["rope_parameters"]
    theta = rope.get("rope_theta")
    theta = content.get("rope_theta", 10_000.0) if theta is None else theta
    for name, place in {"config.json": content, **stated}.items():
        _require_same(f"{name}: rope_theta", place.get("rope_theta"), "the value in use,", theta)
        if place.get("partial_rotary_factor") not in (None, 1):
            value = place["partial_rotary_factor"]
            raise ValueError(f"config.json: partial_rotary_factor={value!r} is not supported")
    return {"rope_theta": theta} | _yarn_from_hf(rope, content)


def _yarn_from_hf(rope: dict, content: dict) -> dict:
    """Return YaRN's settings, or nothing for plain RoPE."""
    _require_same("config.json: type", rope.get("type"), "rope_type", rope.get("rope_type"))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in ("default", "yarn"):
        raise ValueError(f"config.json: rope type 'default' or 'yarn' expected, got {kind!r}")
    given = {name: value for name, value in rope.items() if value is not None and name in YARN}
    if kind == "default":
        if given:
            raise ValueError(f"config.json: {', '.join(given)} given, but no rope_type 'yarn'")
        return {}
    for name, only in (("attention_factor", None), ("truncate", True)):
        if rope.get(name, only) is not only:
            raise ValueError(f"config.json: rope setting {name}={rope[name]!r} is not supported")
    name = "original_max_position_embeddings"
    _require_same(f"config.json: {name}", content.get(name), "RoPE's", rope.get(name))
    given = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.0, "mscale_all_dim": 0.0} | given
    if missing := [name for name in YARN if name not in given]:
        raise ValueError(f"config.json: YaRN lacks {', '.join(missing)}")
    return {ours: given[theirs] for theirs, ours in YARN.items()}


def _require_same(name: str, value: object, other: str, expected: object) -> None:
    """Raise ValueError naming both values if two places disagree about a setting."""
    if value is not None and expected is not None and value != expected:
        raise ValueError(f"{name}={value!r} contradicts {other} {expected!r}")


def _check_settings(content: dict, family: Family) -> None:
    """Raise ValueError naming the first entry whose value is not supported."""
    for name, accepted in family.accepted.items():
        if content.get(name, accepted[0]) not in accepted:
            wanted = " or ".join(map(repr, accepted))
            raise ValueError(f"config.json: {name}={wanted} expected, got {content[name]!r}")
    for name, other in REPEATED.items():
        _require_same(f"config.json: {name}", content.get(name), other, content.get(other))
    parts = [content.get(name) for name in ("qk_nope_head_dim", "qk_rope_head_dim")]
    if all(isinstance(part, int) for part in parts):
        width = content.get("qk_head_dim")
        _require_same("config.json: qk_head_dim", width, "the sum of its parts,", sum(parts))
    check_quantization(content.get("quantization_config"))


def _warn_of_unknown(content: dict, family: Family) -> None:
    """Warn about entries that are set but never read."""
    known = NO_EFFECT | READ_ELSEWHERE | set(SAME_MEANING) | set(family.accepted) | set(REPEATED)
    in_rope = {*YARN, "type", "rope_type", "rope_theta", "attention_factor", "truncate"}
    places = [("", content, known)]
    for name in ("rope_scaling", "rope_parameters"):
        if isinstance(content.get(name), dict):
            places.append((f"{name}.", content[name], in_rope | READ_ELSEWHERE))
    unused = [
        prefix + name
        for prefix, place, names in places
        for name, value in place.items()
        if name not in names and value not in (None, False)
    ]
    if unused:
        warnings.warn(f"config.json: not used: {', '.join(unused)}", stacklevel=4)


def _groups_of_v2(content: dict) -> dict:
    """Express DeepSeek-V2's groups as V3 does: "greedy" is one group, whatever `n_group` says.

    As in transformers, gates are never normalised; DeepSeek's own code obeys `norm_topk_prob`.
    """
    if content.get("norm_topk_prob"):
        warnings.warn("config.json: norm_topk_prob is ignored, as in transformers", stacklevel=4)
    if content.get("topk_method", "greedy") == "greedy":
        return content | {"n_group": 1, "topk_group": 1}
    return content


def _floats_where_declared(fields: dict) -> dict:
    """Convert ints to floats for ModelConfig's float fields; JSON may drop the decimal point."""
    floats = {field.name for field in dataclasses.fields(ModelConfig) if "float" in str(field.type)}

    def as_declared(name: str, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and name in floats and abs(value) < 2**53 else value

    return {name: as_declared(name, value) for name, value in fields.items()}


def _config_from_own(content: dict) -> ModelConfig:
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    others = {"model_type", "dtype", "hidden_size", "bos_token_id", "eos_token_id"}
    given = {name: value for name, value in content.items() if name not in others}
    if unknown := set(given) - names:
        raise ValueError(f"config.json has unknown entries: {', '.join(sorted(unknown))}")
    try:
        return ModelConfig(**_floats_where_declared(given))
    except TypeError as error:
        raise ValueError(f"config.json: {error}") from error
