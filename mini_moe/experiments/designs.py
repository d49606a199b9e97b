"""Which models are compared, arm by arm, and how their sizes were chosen."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mini_moe import presets
from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.model import Transformer


@dataclass(frozen=True)
class Arm:
    """One model and one way to train it, run once per seed."""

    model: ModelConfig
    training: TrainConfig
    knock_outs: bool = False  # after training, switch experts off and measure again
    domains: tuple[str, ...] = ()  # restrict the corpus to these; empty: all of it

    def at_seed(self, seed: int) -> TrainConfig:
        """Return the training of one run; the seed sets initial weights and data order."""
        return dataclasses.replace(self.training, seed=seed)


def balance_arms() -> dict[str, Arm]:
    """One small model with each way of balancing, all else equal; 200 steps of 8 × 128 tokens.

    The sequence-wise and the batch-wise loss have the same large weight, so they differ only in
    the scope over which load is balanced.
    """
    off = training(200, bias_update_rate=0.0, balance_loss_weight=0.0)
    changes = {
        "none": {},
        "auxiliary": {"balance_loss": "switch", "balance_loss_weight": 0.01},
        "auxiliary weak": {"balance_loss": "switch", "balance_loss_weight": 0.001},
        "auxiliary strong": {"balance_loss": "switch", "balance_loss_weight": 0.1},
        "loss-free": {"bias_update_rate": 0.003},
        "loss-free fast": {"bias_update_rate": 0.01},
        "loss-free proportional": {"bias_update_rate": 0.003, "bias_update": "proportional"},
        "z-loss": {"z_loss_weight": 0.001},
        "sequence-wise": {"balance_loss": "sequence", "balance_loss_weight": 0.1},
        "batch-wise": {"balance_loss": "batch", "balance_loss_weight": 0.1},
    }
    return {
        name: Arm(presets.lab(), dataclasses.replace(off, **fields))
        for name, fields in changes.items()
    }


def sparsity_arms() -> dict[str, Arm]:
    """Compare mixtures with dense networks: what sparsity, expert count, grain and sharing buy.

    All arms use the two story domains, on which a small model gets far in a few hundred steps; the
    arms "… six domains" repeat the main comparison on the whole corpus.

    `moe` has 32 experts of width 64 per layer: one shared, and 31 routed of which 3 are chosen. Its
    twins and its finer and coarser relatives all have an active width of 256 per token and a total
    width of 8 × 256. With one expert per token, the chosen score is not divided by the sum of
    chosen scores (that would always give 1, and the router would get no gradient); it is doubled
    instead, so that gates start at about 1. In all other mixtures a token's gates sum to 1.
    """
    moe, plan = sparse_model(31, 3, 64, shared=1), training(300, bias_update_rate=0.01)
    dense, dense_total = dense_twin(moe, "active"), dense_twin(moe, "total")
    arms = {
        "dense": story_arm(dense, plan),
        "moe": story_arm(moe, plan, knock_outs=True),
        "dense total": story_arm(dense_total, plan),
        "no shared": story_arm(sparse_model(32, 4, 64), plan, knock_outs=True),
    }
    for count in (1, 2, 4, 8, 16, 32):
        arms[f"experts {count}"] = story_arm(sparse_model(count, 1, 256), plan)
    for grain in (2, 8):  # 1 is "experts 8", 4 is "no shared"
        arms[f"grain {grain}"] = story_arm(sparse_model(8 * grain, grain, 256 // grain), plan)
    for steps in (600, 900):
        arms[f"dense {steps} steps"] = story_arm(dense, longer(plan, steps))
    for steps in (150, 450, 600):
        arms[f"moe {steps} steps"] = story_arm(moe, longer(plan, steps))
    arms["dense total 600 steps"] = story_arm(dense_total, longer(plan, 600))
    for name, model in (("dense", dense), ("moe", moe)):
        arms[f"{name} half rate"] = story_arm(model, scaled_rate(plan, 0.5))
        arms[f"{name} double rate"] = story_arm(model, scaled_rate(plan, 2.0))
    for name, model in (("dense", dense), ("moe", moe)):
        arms[f"{name} six domains"] = Arm(model, plan)
    return arms


def story_arm(model: ModelConfig, plan: TrainConfig, knock_outs: bool = False) -> Arm:
    """Build an arm on the stories in two languages."""
    return Arm(model, plan, knock_outs, ("stories_en", "stories_de"))


def sparse_model(experts: int, top_k: int, d_expert: int, shared: int = 0) -> ModelConfig:
    """Build a model of four layers, the first dense, with the given experts in the other three."""
    gate = {"norm_topk_prob": False, "route_scale": 2.0} if top_k == 1 else {}
    return dataclasses.replace(
        presets.lab(), n_layers=4, n_routed_experts=experts, top_k=top_k, d_expert=d_expert,
        n_shared_experts=shared, **gate,
    )  # fmt: skip


def dense_twin(moe: ModelConfig, equal: str) -> ModelConfig:
    """Build the dense model with the same number of "active" or "total" parameters.

    Its d_ff is the parameters left after everything else is subtracted, divided by the cost of one
    unit of width in all layers, rounded; so counts agree to within half a unit of width.
    Raises: ValueError for any other `equal`, or a model without experts.
    """
    if equal not in ("active", "total") or not moe.n_moe_layers:
        raise ValueError(
            f"equal={equal!r}: 'active' or 'total', and a model with experts, expected"
        )
    narrow = dataclasses.replace(moe, n_dense_layers=moe.n_layers, d_ff=1)
    unit = 3 * moe.d_model * moe.n_layers  # gate, up and down projection in every layer
    missing = parameters(moe)[equal] - parameters(narrow)[equal]
    return dataclasses.replace(narrow, d_ff=1 + max(0, round(missing / unit)))


def parameters(config: ModelConfig) -> dict[str, int]:
    """Count total and active parameters without allocating any."""
    with torch.device("meta"):
        total, active = Transformer(config).count_parameters()
    return {"total": total, "active": active}


def longer(plan: TrainConfig, steps: int) -> TrainConfig:
    """Return the same plan over a different number of steps; its schedule stretches with it."""
    return dataclasses.replace(plan, steps=steps, eval_every=steps)


def scaled_rate(config: TrainConfig, factor: float) -> TrainConfig:
    """Multiply both learning rates by a factor."""
    return dataclasses.replace(
        config,
        learning_rate=config.learning_rate * factor,
        adamw_learning_rate=config.adamw_learning_rate * factor,
    )


def training(steps: int, **changes) -> TrainConfig:
    """Build what all arms share: batches of 8 × 128 tokens, bfloat16, one evaluation at the end."""
    fixed = {"batch_size": 8, "seq_len": 128, "bf16": True, "eval_every": steps, "eval_tokens": 0}
    return TrainConfig(steps=steps, **fixed | changes)


DESIGNS: dict[str, Callable[[], dict[str, Arm]]] = {
    "balance": balance_arms,
    "sparsity": sparsity_arms,
}
