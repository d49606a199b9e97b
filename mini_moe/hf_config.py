"""config.json of DeepSeek and transformers ↔ ModelConfig."""

import dataclasses

from mini_moe.config import ModelConfig

# config.json → ModelConfig, where both hold the same number
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
# what DeepSeek-V3's code does without asking its config
V3_FIXED = {
    "score_function": "sigmoid",
    "expert_bias": True,
    "group_score": "top2_sum",
    "latent_norm_eps": 1e-6,
}
# settings of config.json that the model has only one of
REQUIRED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_interleave": True,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}
OWN_TYPE = "mini_moe"


def config_from_hf(content: dict, n_mtp_layers: int = 0) -> ModelConfig:
    """ModelConfig of a config.json; the count of MTP layers comes from the weights.

    Raises: ValueError naming the entry that is missing, unknown or not supported.
    """
    if content.get("model_type") == OWN_TYPE:
        return _config_from_own(content)
    if content.get("model_type") != "deepseek_v3":
        raise ValueError(
            f"config.json: model_type 'deepseek_v3' or '{OWN_TYPE}' expected, "
            f"got {content.get('model_type')!r}"
        )
    for name, value in REQUIRED.items():
        if content.get(name, value) != value:
            raise ValueError(f"config.json: {name}={value!r} expected, got {content[name]!r}")
    missing = [name for name in SAME_MEANING if name not in content and name != "q_lora_rank"]
    optional = {"tie_word_embeddings", "initializer_range"}
    if set(missing) - optional:
        raise ValueError(f"config.json lacks {', '.join(sorted(set(missing) - optional))}")
    fields = {ours: content[theirs] for theirs, ours in SAME_MEANING.items() if theirs in content}
    fields |= _rope_from_hf(content)
    return ModelConfig(**_floats_where_declared(fields), n_mtp_layers=n_mtp_layers)


def config_to_hf(config: ModelConfig) -> dict:
    """config.json for a model: DeepSeek-V3's where it is exactly that, else our own kind."""
    if config.n_moe_layers == 0 or any(getattr(config, k) != v for k, v in V3_FIXED.items()):
        return {"model_type": OWN_TYPE} | dataclasses.asdict(config)
    content = {theirs: getattr(config, ours) for theirs, ours in SAME_MEANING.items()}
    content["initializer_range"] = config.weight_std
    content |= REQUIRED | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "num_key_value_heads": config.n_heads,
        "num_nextn_predict_layers": config.n_mtp_layers,
        "rope_theta": config.rope_theta,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    if config.yarn_factor > 1:
        yarn = {theirs: getattr(config, ours) for theirs, ours in YARN.items()}
        content["rope_scaling"] = yarn | {"type": "yarn", "rope_type": "yarn"}
    return content


def _rope_from_hf(content: dict) -> dict:
    """RoPE's base and YaRN's settings, from `rope_parameters` or the older `rope_scaling`."""
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"config.json: rope_scaling must be an object, got {rope!r}")
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = rope.get("rope_theta", content.get("rope_theta", 10_000.0))
    if kind == "default":
        return {"rope_theta": theta}
    if kind != "yarn":
        raise ValueError(f"config.json: rope type 'default' or 'yarn' expected, got {kind!r}")
    for name, only in (("attention_factor", None), ("truncate", True)):
        if rope.get(name) is not None and rope[name] is not only:
            raise ValueError(f"config.json: rope setting {name}={rope[name]!r} is not supported")
    defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.0, "mscale_all_dim": 0.0}
    given = defaults | {name: value for name, value in rope.items() if value is not None}
    missing = [name for name in YARN if name not in given]
    if missing:
        raise ValueError(f"config.json: YaRN lacks {', '.join(missing)}")
    return {"rope_theta": theta} | {ours: given[theirs] for theirs, ours in YARN.items()}


def _floats_where_declared(fields: dict) -> dict:
    """JSON writes a whole number without a point; ModelConfig says which of them are floats."""
    floats = {field.name for field in dataclasses.fields(ModelConfig) if "float" in str(field.type)}

    def as_declared(name: str, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and name in floats and abs(value) < 2**53 else value

    return {name: as_declared(name, value) for name, value in fields.items()}


def _config_from_own(content: dict) -> ModelConfig:
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    given = {name: value for name, value in content.items() if name not in ("model_type", "dtype")}
    if unknown := set(given) - names:
        raise ValueError(f"config.json has unknown {', '.join(sorted(unknown))}")
    try:
        return ModelConfig(**_floats_where_declared(given))
    except TypeError as error:
        raise ValueError(f"config.json: {error}") from error
