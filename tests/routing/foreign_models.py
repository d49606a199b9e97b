"""Small random models of transformers' MoE classes, and their layers, one expert at a time."""

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

transformers.logging.set_verbosity_error()

VOCAB = 97
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_experts_per_tok": 3,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MLA = {"kv_lora_rank": 16, "q_lora_rank": None, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8}
_MLA |= {"v_head_dim": 16, "n_routed_experts": 8, "moe_intermediate_size": 16}
_MLA |= {"first_k_dense_replace": 1}
_SHARED = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24}
_GROUPS = {"n_group": 4, "topk_group": 2}
# name: (class, changes to its configuration, layers with experts)
CASES = {
    "deepseek-v2": ("DeepseekV2", _MLA | _GROUPS | {"topk_method": "greedy"}, (1, 2)),
    "deepseek-v2-groups": (
        "DeepseekV2",
        _MLA | _GROUPS | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 2.0},
        (1, 2),
    ),
    "deepseek-v3": ("DeepseekV3", _MLA | _GROUPS | {"q_lora_rank": 12}, (1, 2)),
    "moonlight": (
        "DeepseekV3",
        _MLA | {"n_group": 1, "topk_group": 1, "routed_scaling_factor": 2.446},
        (1, 2),
    ),
    "glm-4-moe": (
        "Glm4Moe",
        {"n_routed_experts": 8, "moe_intermediate_size": 16, "head_dim": 16} | _GROUPS,
        (1, 2),
    ),
    "gpt-oss": ("GptOss", {"num_local_experts": 8, "head_dim": 16}, (0, 1, 2)),
    "mixtral": ("Mixtral", {"num_local_experts": 8}, (0, 1, 2)),
    "olmoe": ("Olmoe", {"num_experts": 8}, (0, 1, 2)),
    "qwen2-moe": ("Qwen2Moe", {"num_experts": 8, "mlp_only_layers": [1]} | _SHARED, (0, 2)),
    "qwen3-moe": (
        "Qwen3Moe",
        {"num_experts": 8, "moe_intermediate_size": 16, "norm_topk_prob": True, "head_dim": 16},
        (0, 1, 2),
    ),
}


def foreign_model(case: str, seed: int = 0) -> nn.Module:
    """Build the random model of a case, with norms other than one and biases that matter."""
    kind, changes, _ = CASES[case]
    return random_model(kind, seed, **changes)


def random_model(kind: str, seed: int = 0, **changes) -> nn.Module:
    """Build `<kind>ForCausalLM` with every parameter and bias drawn at random."""
    config = getattr(transformers, f"{kind}Config")(**_SIZES | changes)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.uniform_(0.5, 1.5) if "norm" in name else parameter.normal_(std=0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
    return model


def expert_outputs(experts: nn.Module, x: Tensor) -> Tensor:
    """Apply every expert to every token, from the weights alone: [tokens, experts, d_model]."""
    outputs = []
    for expert in range(len(experts.gate_up_proj)):
        if hasattr(experts, "gate_up_proj_bias"):  # gpt-oss: weights [in, out], and biases
            mixed = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
            gate, up = mixed[:, ::2].clamp(max=experts.limit), mixed[:, 1::2]
            hidden = (up.clamp(-experts.limit, experts.limit) + 1) * gate
            hidden = hidden * torch.sigmoid(experts.alpha * gate)
            out = hidden @ experts.down_proj[expert] + experts.down_proj_bias[expert]
        else:
            gate, up = (x @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
            out = (F.silu(gate) * up) @ experts.down_proj[expert].T
        outputs.append(out)
    return torch.stack(outputs, dim=1)


def shared_output(block: nn.Module, x: Tensor) -> Tensor:
    """Return the output of the shared experts, or zero if there are none."""
    if hasattr(block, "shared_experts"):
        return block.shared_experts(x)
    if hasattr(block, "shared_expert"):
        return torch.sigmoid(block.shared_expert_gate(x)) * block.shared_expert(x)
    return torch.zeros_like(x)
