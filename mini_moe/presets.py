"""Named configurations, as functions: change one with `dataclasses.replace`."""

import dataclasses

from mini_moe.config import ModelConfig


def tiny() -> ModelConfig:
    """The model of the lessons: V3's shape, small enough to train in two minutes on two cores."""
    return ModelConfig(
        vocab_size=4096,
        d_model=192,
        n_layers=4,
        n_dense_layers=1,
        d_ff=640,
        max_seq_len=512,
        tie_embeddings=True,
        n_heads=4,
        q_lora_rank=None,
        kv_lora_rank=64,
        qk_nope_head_dim=32,
        qk_rope_head_dim=16,
        v_head_dim=32,
        n_routed_experts=16,
        n_shared_experts=1,
        top_k=4,
        d_expert=128,
        route_scale=2.5,
    )


def lab() -> ModelConfig:
    """The model used in the labs: three of them train side by side in half a minute."""
    return dataclasses.replace(
        tiny(),
        d_model=128,
        n_layers=3,
        d_ff=256,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        top_k=2,
        d_expert=64,
    )


def needle() -> ModelConfig:
    """The model for needle tests: `tiny` with three layers, 256 tokens and fewer experts."""
    return dataclasses.replace(
        tiny(), n_layers=3, d_ff=384, max_seq_len=256, n_routed_experts=8, top_k=2
    )


def small() -> ModelConfig:
    """12.3 million parameters in six layers; the size used to compare speed."""
    return dataclasses.replace(tiny(), d_model=256, n_layers=6, n_heads=8, tie_embeddings=False)


def deepseek_v3() -> ModelConfig:
    """DeepSeek-V3 and R1: 671,026,419,200 parameters, 37,552,297,472 active per token.

    Source: arXiv 2412.19437 §4.2 and the published config.json; MTP is not counted.
    """
    return ModelConfig(
        vocab_size=129_280,
        d_model=7168,
        n_layers=61,
        n_dense_layers=3,
        d_ff=18_432,
        max_seq_len=163_840,
        n_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        yarn_factor=40.0,
        yarn_original_seq_len=4096,
        n_routed_experts=256,
        n_shared_experts=1,
        top_k=8,
        d_expert=2048,
        n_expert_groups=8,
        top_k_groups=4,
        route_scale=2.5,
    )


def deepseek_v2() -> ModelConfig:
    """DeepSeek-V2: 235,741,434,880 parameters; softmax router, groups scored by their maximum.

    Source: arXiv 2405.04434 §3.1.2 and the published config.json.
    """
    return ModelConfig(
        vocab_size=102_400,
        d_model=5120,
        n_layers=60,
        n_dense_layers=1,
        d_ff=12_288,
        max_seq_len=163_840,
        n_heads=128,
        q_lora_rank=1536,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        yarn_factor=40.0,
        yarn_original_seq_len=4096,
        yarn_mscale=0.707,
        yarn_mscale_all_dim=0.707,
        n_routed_experts=160,
        n_shared_experts=2,
        top_k=6,
        d_expert=1536,
        score_function="softmax",
        expert_bias=False,
        n_expert_groups=8,
        top_k_groups=3,
        group_score="max",
        norm_topk_prob=False,
        route_scale=16.0,
    )


def deepseek_v2_lite() -> ModelConfig:
    """DeepSeek-V2-Lite: 15,706,484,224 parameters, no query compression, no groups.

    Source: arXiv 2405.04434 appendix B and the published config.json.
    """
    return ModelConfig(
        vocab_size=102_400,
        d_model=2048,
        n_layers=27,
        n_dense_layers=1,
        d_ff=10_944,
        max_seq_len=163_840,
        n_heads=16,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        yarn_factor=40.0,
        yarn_original_seq_len=4096,
        yarn_mscale=0.707,
        yarn_mscale_all_dim=0.707,
        n_routed_experts=64,
        n_shared_experts=2,
        top_k=6,
        d_expert=1408,
        score_function="softmax",
        expert_bias=False,
        norm_topk_prob=False,
    )
