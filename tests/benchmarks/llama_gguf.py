"""Write weights as a GGUF file for llama.cpp, as architecture "deepseek2" without a vocabulary.

Needs the PyPI package `gguf`, which nothing else uses: `llama_cpp.py` says where to install it.
"""

from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from mini_moe import ModelConfig, Transformer


def write_gguf(model: Transformer, path: Path) -> None:
    """Write matrices in the model's type; norms, router and its bias in fp32.

    Raises: ValueError for what this short version doesn't support: YaRN, groups, softmax routers.
    """
    import gguf

    config = model.config
    plain = config.yarn_factor == 1 and config.n_expert_groups == 1
    if not plain or config.score_function != "sigmoid":
        raise ValueError("model: no YaRN, no expert groups and a sigmoid router expected")
    writer = gguf.GGUFWriter(path, "deepseek2")
    describe(writer, config, gguf)
    kinds = {
        torch.float32: gguf.GGMLQuantizationType.F32,
        torch.bfloat16: gguf.GGMLQuantizationType.BF16,
    }
    for name, tensor in named_tensors(model).items():
        tensor = tensor.detach().contiguous()
        exact = tensor.dim() == 1 or "ffn_gate_inp" in name
        tensor = tensor.float() if exact else tensor
        raw = tensor.view(torch.uint8) if tensor.dtype == torch.bfloat16 else tensor
        writer.add_tensor(name, raw.numpy(), raw_dtype=kinds[tensor.dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: object, config: ModelConfig, gguf: object) -> None:
    """Write the model's sizes under llama.cpp's keys; heads attend to latents, as one group."""
    rope, rank = config.qk_rope_head_dim, config.kv_lora_rank
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_seq_len)
    writer.add_embedding_length(config.d_model)
    writer.add_block_count(config.n_layers)
    writer.add_leading_dense_block_count(config.n_dense_layers)
    writer.add_feed_forward_length(config.d_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(rope)
    writer.add_q_lora_rank(config.q_lora_rank or config.d_model)
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + rope)
    writer.add_value_length(rank)
    writer.add_key_length_mla(config.qk_head_dim)
    writer.add_value_length_mla(config.v_head_dim)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.top_k)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_feed_forward_length(config.d_expert)
    writer.add_expert_weights_scale(config.route_scale)
    writer.add_expert_weights_norm(config.norm_topk_prob)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)


def named_tensors(model: Transformer) -> dict[str, Tensor]:
    """Return the model's weights by llama.cpp's names."""
    found = {
        "token_embd.weight": model.embed_tokens.weight,
        "output_norm.weight": model.norm.weight,
        "output.weight": model.lm_head.weight,
    }
    for number, block in enumerate(model.layers):
        own = attention_tensors(block) | network_tensors(block)
        own["attn_norm.weight"] = block.input_layernorm.weight
        own["ffn_norm.weight"] = block.post_attention_layernorm.weight
        found |= {f"blk.{number}.{name}": tensor for name, tensor in own.items()}
    return found


def attention_tensors(block: torch.nn.Module) -> dict[str, Tensor]:
    """Return W_UK, transposed, and W_UV, separately for every head.

    llama.cpp supports uncompressed queries only for 26, 27 and 48 layers. For other depths they are
    written as compressed to d_model: with g the weight of the preceding norm, 1 / g restores a
    vector of mean square one, which the norm of compressed queries leaves unchanged, and W_Q g
    gives the query. This costs llama.cpp one more d_model × d_model product per layer.
    """
    attention, config = block.self_attn, block.self_attn.config
    up = rearrange(attention.kv_b_proj.weight, "(h d) l -> h d l", h=config.n_heads)
    keys, values = up.split([config.qk_nope_head_dim, config.v_head_dim], dim=1)
    found = {
        "attn_kv_a_mqa.weight": attention.kv_a_proj_with_mqa.weight,
        "attn_kv_a_norm.weight": attention.kv_a_layernorm.weight,
        "attn_k_b.weight": keys.transpose(1, 2),
        "attn_v_b.weight": values,
        "attn_output.weight": attention.o_proj.weight,
    }
    if config.q_lora_rank is None:
        gain = block.input_layernorm.weight.float()
        weight = attention.q_proj.weight
        return found | {
            "attn_q_a.weight": (1 / gain).diag(),
            "attn_q_a_norm.weight": torch.ones_like(gain),
            "attn_q_b.weight": (weight * gain).to(weight.dtype),
        }
    return found | {
        "attn_q_a.weight": attention.q_a_proj.weight,
        "attn_q_a_norm.weight": attention.q_a_layernorm.weight,
        "attn_q_b.weight": attention.q_b_proj.weight,
    }


def network_tensors(block: torch.nn.Module) -> dict[str, Tensor]:
    """Return a dense network, or the router, the experts and the shared expert."""
    mlp = block.mlp
    shared, suffix = (mlp.shared_experts, "_shexp") if block.is_moe else (mlp, "")
    found = {
        f"ffn_{kind}{suffix}.weight": getattr(shared, f"{kind}_proj").weight
        for kind in ("gate", "up", "down")
    }
    if block.is_moe:
        gate, up = mlp.experts.gate_up_proj.unbind(dim=1)
        found |= {"ffn_gate_exps.weight": gate, "ffn_up_exps.weight": up}
        found |= {"ffn_down_exps.weight": mlp.experts.down_proj}
        found |= {"ffn_gate_inp.weight": mlp.gate.weight}
        found |= {"exp_probs_b.bias": mlp.gate.e_score_correction_bias}
    return found
