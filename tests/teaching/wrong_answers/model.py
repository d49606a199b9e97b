"""Wrong answers to the exercises of 05_model."""

import math

import torch
import torch.nn.functional as F

from mini_moe.model.layers import rms_norm
from mini_moe.teaching.part1_build.model import block_forward, moe_parameters, mtp_rows


def without_first_residual(block, x, rotation):
    """Attention replaces the stream instead of adding to it."""
    x = block.self_attn(block.input_layernorm(x), rotation)
    return x + block.mlp(block.post_attention_layernorm(x))


def norm_after(block, x, rotation):
    """The norms sit behind the parts, as in the first transformer."""
    x = block.input_layernorm(x + block.self_attn(x, rotation))
    return block.post_attention_layernorm(x + block.mlp(x))


def side_by_side(block, x, rotation):
    """Attention and experts both read the block's input."""
    attended = block.self_attn(block.input_layernorm(x), rotation)
    return x + attended + block.mlp(block.post_attention_layernorm(x))


def swapped_norms(block, x, rotation):
    """Each norm stands at the other's place."""
    x = x + block.self_attn(block.post_attention_layernorm(x), rotation)
    return x + block.mlp(block.input_layernorm(x))


def counted(change_total=0, change_active=0):
    """The right counts, off by so many experts' worth of V3."""

    def count(config):
        total, active = moe_parameters(config)
        return total + change_total, active + change_active

    return count


def of_the_tiny_router(config):
    """Right for V3, which has one shared expert; forgets that others have two."""
    total, active = moe_parameters(config)
    extra = (config.n_shared_experts - 1) * 3 * config.d_model * config.d_expert
    return total - extra, active - extra


EXPERT = 3 * 7168 * 2048

WRONG = {
    "rms_norm": {
        "forgets the root": (
            lambda x, w, eps: w * x / (x.pow(2).mean(-1, keepdim=True) + eps),
            "one vector",
        ),
        "the sum instead of the mean": (
            lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + eps),
            "one vector",
        ),
        "a layer norm": (lambda x, w, eps: F.layer_norm(x, x.shape[-1:], w, eps=eps), "one vector"),
        "the mean over all rows": (
            lambda x, w, eps: w * x * torch.rsqrt(x.pow(2).mean() + eps),
            "two rows",
        ),
        "forgets the weight": (
            lambda x, w, eps: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps),
            "two rows",
        ),
        "forgets eps": (
            lambda x, w, eps: w * x / x.pow(2).mean(-1, keepdim=True).sqrt(),
            "row of zeros",
        ),
        "eps outside the root": (
            lambda x, w, eps: w * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + eps),
            "tiny row",
        ),
        "calls what does not exist": (lambda x, w, eps: x.rsm_norm(), "raised AttributeError"),
    },
    "block_forward": {
        "no residual round attention": (without_first_residual, "parts all answer zero"),
        "norms behind the parts": (norm_after, "parts all answer zero"),
        "in parallel": (side_by_side, "a block with 4 experts"),
        "norms exchanged": (swapped_norms, "a block with 4 experts"),
        "attention only": (
            lambda block, x, rotation: x + block.self_attn(block.input_layernorm(x), rotation),
            "a block with 4 experts",
        ),
        "adds the normed input": (
            lambda block, x, rotation: block_forward(
                block, rms_norm(x, block.input_layernorm.weight, 1e-6), rotation
            ),
            "parts all answer zero",
        ),
    },
    "weight_std": {
        "always 0.006": (lambda d_model: 0.006, "a width of 192"),
        "the spread instead of the weights": (
            lambda d_model: 0.006 * math.sqrt(d_model),
            "0.508 for d_model=7168",
        ),
        "without the root": (lambda d_model: 0.006 * 7168 / d_model, "a width of 192"),
        "upside down": (lambda d_model: 0.006 * math.sqrt(d_model / 7168), "a width of 192"),
    },
    "moe_parameters": {
        "no shared expert": (counted(-EXPERT, -EXPERT), "the shared expert is missing"),
        "no biases": (counted(-256, -256), "256 biases are missing"),
        "no router": (counted(-256 * 7169, -256 * 7169), "the router is missing"),
        "two matrices an expert": (
            counted(-257 * EXPERT // 3, -3 * EXPERT),
            "three matrices is missing",
        ),
        "the shared expert rests": (counted(0, -EXPERT), "works on every token"),
        "everything works": (lambda c: (moe_parameters(c)[0],) * 2, "only top_k=8"),
        "always one shared expert": (of_the_tiny_router, "two shared experts"),
    },
    "mtp_rows": {
        "shows the present token": (
            lambda tokens, seq: (tokens[:, :seq], tokens[:, 2 : 2 + seq]),
            "you show [[10, 11, 12, 13]]",
        ),
        "predicts the next token": (
            lambda tokens, seq: (tokens[:, 1 : 1 + seq],) * 2,
            "you predict [[11, 12, 13, 14]]",
        ),
        "exchanged": (lambda tokens, seq: mtp_rows(tokens, seq)[::-1], "you show [[12"),
        "to the end": (
            lambda tokens, seq: (tokens[:, 1:], tokens[:, 2:]),
            "you show [[11, 12, 13, 14, 15]]",
        ),
    },
}
