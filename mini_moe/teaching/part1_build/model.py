"""Exercises of 05_model: the parts between experts and attention, and how many there are."""

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mini_moe import presets
from mini_moe.config import ModelConfig
from mini_moe.model import layers
from mini_moe.model.moe import MoE
from mini_moe.model.rope import rope_rotation
from mini_moe.model.transformer import Block, Transformer
from mini_moe.teaching.exercise import Mistake, exercise, must_match
from mini_moe.training import losses

rms_norm = exercise(
    layers.rms_norm,
    difficulty=2,
    importance=4,
    minutes=5,
    hints=(
        "The mean of the squares runs over the last axis: `x.pow(2).mean(dim=-1, keepdim=True)`.",
        "Divide by the square root of (mean square + eps); `torch.rsqrt` is 1 / √.",
        "Multiply by weight at the end. Nothing is subtracted: RMSNorm has no mean.",
    ),
)
rms_norm.agrees(
    "one vector (3, 4)", lambda: (torch.tensor([[3.0, 4.0]]), torch.ones(2), 1e-6), "your result"
)
rms_norm.agrees(
    "two rows and a weight per channel",
    lambda: (torch.tensor([[1.0, 2.0, 2.0], [0.0, 6.0, 0.0]]), torch.tensor([1.0, 2.0, 3.0]), 1e-6),
)
rms_norm.agrees("a row of zeros", lambda: (torch.zeros(1, 3), torch.ones(3), 1e-6))
rms_norm.agrees(
    "a tiny row, where eps counts", lambda: (torch.full((1, 4), 1e-3), torch.ones(4), 1e-6)
)
rms_norm.agrees(
    "a batch of sequences", lambda: (torch.arange(24.0).view(2, 3, 4), torch.ones(4), 1e-6)
)


def block_forward(
    block: nn.Module, x: Float[Tensor, "batch seq d_model"], rotation: Float[Tensor, "seq pairs 2"]
) -> Float[Tensor, "batch seq d_model"]:
    """What one transformer block makes of its input."""
    return block(x, rotation)


def small_block() -> Block:
    """A block with experts, the same at every call; its two norms differ from each other."""
    sizes = {"d_model": 16, "n_layers": 2, "d_ff": 24, "d_expert": 8, "n_routed_experts": 4}
    heads = {"n_heads": 2, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}
    config = dataclasses.replace(presets.tiny(), vocab_size=32, top_k=2, **sizes, **heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        block = Transformer(config).layers[1]
        with torch.no_grad():
            for norm in (block.input_layernorm, block.post_attention_layernorm):
                norm.weight.uniform_(0.5, 1.5)
    return block


def some_input() -> Tensor:
    """Two sequences of three tokens, the same numbers at every call."""
    return torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(5))


block_exercise = exercise(
    block_forward,
    source=Block.forward,
    difficulty=2,
    importance=5,
    minutes=8,
    hints=(
        "Two rounds: norm, work, add. First attention, then the experts.",
        "`x = x + block.self_attn(block.input_layernorm(x), rotation)` is the first round.",
        "The second takes the new x: block.post_attention_layernorm, then block.mlp.",
    ),
)


@block_exercise.probe("a block whose parts all answer zero")
def _(student):
    block, x = small_block(), some_input()
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.experts.down_proj.zero_()
        block.mlp.shared_experts.down_proj.weight.zero_()
        result = student(block, x.clone(), rope_rotation(block.mlp.gate.config, 0, 3, x.device))
    must_match(result, x, "your result")


@block_exercise.probe("a block with 4 experts")
def _(student):
    block, x = small_block(), some_input()
    rotation = rope_rotation(block.mlp.gate.config, 0, 3, x.device)
    with torch.no_grad():
        must_match(student(block, x.clone(), rotation), block_forward(block, x, rotation))


def weight_std(d_model: int) -> float:
    """Standard deviation of fresh matrices at a width."""
    return dataclasses.replace(presets.tiny(), d_model=d_model).weight_std


std_exercise = exercise(
    weight_std,
    source=ModelConfig.weight_std.fget,
    difficulty=2,
    importance=3,
    minutes=4,
    hints=(
        "std · √d_model shall be the same number as DeepSeek-V3's 0.006 · √7168.",
        "Solve 0.006 · √7168 = std · √d_model for std.",
    ),
)


@std_exercise.probe("at DeepSeek-V3's own width")
def _(student):
    found = student(7168)
    if not abs(found - 0.006) < 1e-6:
        raise Mistake(f"you give {found:.4g} for d_model=7168; DeepSeek-V3 has 0.006 there")


std_exercise.agrees("a width of 192", lambda: (192,))
std_exercise.agrees("a width of 1024", lambda: (1024,))


def moe_parameters(config: ModelConfig) -> tuple[int, int]:
    """Parameters of one mixture-of-experts layer: all, and those that work on one token."""
    with torch.device("meta"):
        layer = MoE(config)
    total = sum(t.numel() for t in (*layer.parameters(), *layer.buffers()))
    held = sum(p.numel() for p in layer.experts.parameters())
    return total, total - held + held * config.top_k // config.n_routed_experts


count_exercise = exercise(
    moe_parameters,
    difficulty=3,
    importance=5,
    minutes=10,
    hints=(
        "One expert has three matrices of d_model · d_expert.",
        "Shared experts are as large as routed ones and work on every token.",
        "The router: d_model weights and one bias for each routed expert; all of it always works.",
        "Active: like the total, but with top_k instead of n_routed_experts experts.",
    ),
)


@count_exercise.probe("DeepSeek-V3")
def _(student):
    total, active = student(presets.deepseek_v3())
    right_total, right_active = moe_parameters(presets.deepseek_v3())
    expert, router, biases = 44_040_192, 1_835_008, 256
    reasons = {
        right_total - expert: "the shared expert is missing",
        right_total - biases: "the 256 biases are missing",
        right_total - router - biases: "the router is missing",
        right_total - 257 * expert // 3: "one of an expert's three matrices is missing",
    }
    if total in reasons:
        raise Mistake(f"your total is {total:,}; {reasons[total]}")
    if active == right_active - expert:
        raise Mistake(f"your active count is {active:,}; the shared expert works on every token")
    if total == right_total and active == total:
        raise Mistake("of the routed experts only top_k=8 work on a token")
    must_match((total, active), (right_total, right_active), "(total, active)")


count_exercise.agrees("the tiny preset", lambda: (presets.tiny(),))
count_exercise.agrees("two shared experts", lambda: (presets.deepseek_v2(),))


def mtp_rows(
    tokens: Int[Tensor, "batch length"], seq: int
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """At every position: the token an MTP module is shown, and the one it must predict."""
    return tokens[:, 1 : 1 + seq], tokens[:, 2 : 2 + seq]


mtp_exercise = exercise(
    mtp_rows,
    source=losses.training_losses,
    difficulty=2,
    importance=3,
    minutes=5,
    hints=(
        "At position i it is shown token i + 1, and predicts token i + 2.",
        "Both results are slices of `tokens`, seq long; the second starts one further on.",
    ),
)
ROW = torch.tensor([[10, 11, 12, 13, 14, 15]])


@mtp_exercise.probe("the tokens 10 … 15, of which the model reads four")
def _(student):
    shown, target = student(ROW.clone(), 4)
    for name, got, first in (("show", shown, 11), ("predict", target, 12)):
        wanted = list(range(first, first + 4))
        if got.tolist() != [wanted]:
            raise Mistake(f"at positions 0 to 3 you {name} {got.tolist()}; {wanted} expected")


mtp_exercise.agrees("two rows", lambda: (torch.arange(14).view(2, 7), 5))
