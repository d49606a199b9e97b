"""How many bytes each token takes in the cache, by kind of attention."""

from mini_moe.config import ModelConfig
from mini_moe.inference.cache import kv_bytes_per_token


def cache_bytes_per_token(
    config: ModelConfig, bytes_per_number: int = 2, groups: int = 8
) -> dict[str, int]:
    """Cache bytes per token for each kind of attention with this model's layers, heads and widths.

    MLA keeps the latent and one rotated key or, naively, keys and values of all heads. The others
    keep keys of width qk_nope_head_dim and values of width v_head_dim: for all heads (MHA), for
    `groups` of them (GQA, left out unless there are more heads than that), or for one (MQA).

    Raises: ValueError for counts below one.
    Source: DeepSeek-V2, arXiv 2405.04434 table 1.
    """
    for name, value in (("bytes_per_number", bytes_per_number), ("groups", groups)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: a whole number of at least 1 expected, got {value!r}")
    number = config.n_layers * bytes_per_number
    head = number * (config.qk_nope_head_dim + config.v_head_dim)
    sizes = {
        "MLA": kv_bytes_per_token(config, bytes_per_number),
        "MLA, all heads": number * config.n_heads * (config.qk_head_dim + config.v_head_dim),
        "MHA": head * config.n_heads,
        f"GQA-{groups}": head * groups,
        "MQA": head,
    }
    if groups >= config.n_heads:
        del sizes[f"GQA-{groups}"]
    return sizes
