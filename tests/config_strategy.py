"""Valid small configurations, for properties that hold for every model."""

from hypothesis import strategies as st

from mini_moe.config import ModelConfig
from tests.helpers import small_config


@st.composite
def expert_fields(draw) -> dict:
    """Draw routers of V3, V2, Mixtral and anything in between: consistent counts, any switches."""
    group_score = draw(st.sampled_from(["top2_sum", "max"]))
    groups = draw(st.integers(1, 4))
    group_size = draw(st.integers(1 if groups == 1 or group_score == "max" else 2, 5))
    kept = draw(st.integers(1, groups))
    return {
        "n_routed_experts": groups * group_size,
        "n_expert_groups": groups,
        "top_k_groups": kept,
        "group_score": group_score,
        "top_k": draw(st.integers(1, min(8, kept * group_size))),
        "d_expert": draw(st.integers(1, 9)),
        "n_shared_experts": draw(st.integers(0, 2)),
        "score_function": draw(st.sampled_from(["sigmoid", "softmax"])),
        "expert_bias": draw(st.booleans()),
        "norm_topk_prob": draw(st.booleans()),
        "route_scale": draw(st.sampled_from([1e-6, 1.0, 2.5, 16.0, 1e3])),
    }


@st.composite
def position_fields(draw) -> dict:
    """Draw ordinary and extreme settings of RoPE and YaRN."""
    return {
        "qk_rope_head_dim": 2 * draw(st.integers(1, 5)),
        "rope_theta": draw(st.sampled_from([2.0, 10_000.0, 1e9])),
        "yarn_factor": draw(st.sampled_from([1.0, 1.5, 40.0, 1e9])),
        "yarn_original_seq_len": draw(st.sampled_from([1, 32, 4096, 2**31 - 1])),
        "yarn_beta_slow": draw(st.sampled_from([1e-3, 1.0])),
        "yarn_mscale": draw(st.sampled_from([0.0, 0.707, 1.0, 100.0])),
        "yarn_mscale_all_dim": draw(st.sampled_from([0.0, 0.707, 1.0, 100.0])),
    }


@st.composite
def valid_configs(draw) -> ModelConfig:
    """Draw configs of any small width, with and without query compression, experts and MTP."""
    widths = ("d_model", "d_ff", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim")
    fields = {name: draw(st.integers(1, 12)) for name in widths}
    layers = draw(st.integers(1, 3))
    fields |= {
        "vocab_size": draw(st.integers(1, 30)),
        "n_layers": layers,
        "n_dense_layers": draw(st.integers(0, layers)),
        "n_heads": draw(st.integers(1, 3)),
        "q_lora_rank": draw(st.one_of(st.none(), st.integers(1, 6))),
        "max_seq_len": draw(st.integers(1, 64)),
        "tie_embeddings": draw(st.booleans()),
        "n_mtp_layers": draw(st.integers(0, 2)),
        "norm_eps": draw(st.sampled_from([1e-12, 1e-6, 1.0])),
        "init_std": draw(st.sampled_from([None, 1e-9, 0.02, 10.0])),
    }
    return small_config(**fields | draw(expert_fields()) | draw(position_fields()))
