"""Every number that defines a model or a training run, checked on construction."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal, get_args, get_origin

LARGEST = 2**31  # no width, count or factor comes close; anything larger is a mistake
ScoreFunction = Literal["sigmoid", "softmax"]
GroupScore = Literal["top2_sum", "max"]
BiasUpdate = Literal["sign", "proportional"]
BalanceLoss = Literal["sequence", "batch", "switch"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of one transformer: DeepSeek-V3, V2, plain softmax experts or a dense model.

    A layer is dense if its index is below `n_dense_layers`, otherwise a mixture of experts; a dense
    model has n_dense_layers = n_layers.

    Raises: ValueError naming the field, what was expected and what was received.
    Source: DeepSeek-V3 (arXiv 2412.19437) §2.1, §4.2; names follow its published config.json
    where other implementations share them (see the table in the README).
    """

    vocab_size: int  # number of tokens in the vocabulary
    d_model: int  # width of the residual stream
    n_layers: int  # transformer blocks, without MTP modules
    n_dense_layers: int = 1  # leading blocks with one feed-forward network instead of experts
    d_ff: int  # hidden width of a dense block's feed-forward network
    max_seq_len: int = 4096  # longest sequence in tokens that the model accepts
    tie_embeddings: bool = False  # the head reuses the embedding matrix
    norm_eps: float = 1e-6  # added to the mean square in RMSNorm
    latent_norm_eps: float = 1e-6  # added to the mean square in the two norms inside attention
    init_std: float | None = None  # for every matrix; None keeps DeepSeek's std·√d_model = 0.508

    # attention (MLA)
    n_heads: int  # query heads
    q_lora_rank: int | None = None  # width of the compressed query; None: one full projection
    kv_lora_rank: int  # width of the cached latent that keys and values are rebuilt from
    qk_nope_head_dim: int  # width per head of the part without rotation
    qk_rope_head_dim: int  # width of the rotated part; its key is shared by all heads
    v_head_dim: int  # width per head of the values

    # positions (RoPE, YaRN)
    rope_theta: float = 10_000.0  # base of the rotation frequencies
    yarn_factor: float = 1.0  # context extension; 1 switches YaRN off
    yarn_original_seq_len: int = 4096  # longest sequence, in tokens, before the extension
    yarn_beta_fast: float = 32.0  # frequencies with more rotations within it are kept
    yarn_beta_slow: float = 1.0  # frequencies with fewer rotations within it are divided
    yarn_mscale: float = 1.0  # attention temperature applied to the rotated part
    yarn_mscale_all_dim: float = 1.0  # attention temperature applied to all channels

    # experts
    n_routed_experts: int = 0  # experts the router chooses from, per layer
    n_shared_experts: int = 0  # experts every token passes through
    top_k: int = 0  # routed experts per token
    d_expert: int = 0  # hidden width of one expert
    score_function: ScoreFunction = "sigmoid"  # turns router logits into scores
    expert_bias: bool = True  # a bias per expert that affects the choice, never the weight
    n_expert_groups: int = 1  # groups (nodes in V3) that the experts are divided into
    top_k_groups: int = 1  # groups a token may choose its experts from
    group_score: GroupScore = "top2_sum"  # V3: sum of a group's two best scores; V2: the best
    norm_topk_prob: bool = True  # divide the chosen scores by their sum
    route_scale: float = 1.0  # multiplies the gates

    # multi-token prediction
    n_mtp_layers: int = 0  # extra modules; module i predicts the token i + 2 positions ahead

    def __post_init__(self) -> None:
        check_types(self)
        self._check_widths()
        self._check_positions()
        if self.n_moe_layers:
            self._check_experts()

    @property
    def n_moe_layers(self) -> int:
        """Number of blocks with experts, not counting MTP modules."""
        return self.n_layers - self.n_dense_layers

    @property
    def qk_head_dim(self) -> int:
        """Width per head of queries and keys."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def weight_std(self) -> float:
        """Standard deviation of freshly initialised matrices.

        A router logit is a dot product of a normalised vector with a row of weights, so at
        initialisation its spread is std·√d_model. In DeepSeek-V3 this is 0.006·√7168 = 0.508; a
        narrow model with the same 0.006 would start with experts it can hardly tell apart.
        Source: arXiv 2412.19437 §4.2 (0.006, width 7168); the scaling rule is ours.
        """
        return self.init_std or 0.006 * math.sqrt(7168 / self.d_model)

    def _check_widths(self) -> None:
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "kv_lora_rank", "max_seq_len"):
            require_at_least(self, name, 1)
        for name in ("qk_nope_head_dim", "v_head_dim", "d_ff"):
            require_at_least(self, name, 1)
        for name in ("n_dense_layers", "n_mtp_layers", "n_shared_experts"):
            require_at_least(self, name, 0)
        for name in ("n_routed_experts", "top_k", "d_expert"):
            require_at_least(self, name, 0)
        if self.q_lora_rank is not None:
            require_at_least(self, "q_lora_rank", 1)
        if self.n_dense_layers > self.n_layers:
            raise ValueError(
                f"n_dense_layers={self.n_dense_layers} is more than n_layers={self.n_layers}"
            )
        # outside these ranges, fp32 overflows or a norm divides by zero
        require_between(self, "norm_eps", 1e-12, 1.0)
        require_between(self, "latent_norm_eps", 1e-12, 1.0)
        require_between(self, "route_scale", 1e-6, 1e3)
        if self.init_std is not None:
            require_between(self, "init_std", 1e-9, 10.0)

    def _check_positions(self) -> None:
        require_between(self, "rope_theta", 2.0, 1e9)
        if self.qk_rope_head_dim < 2 or self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim={self.qk_rope_head_dim} must be even and at least 2: "
                "RoPE rotates pairs"
            )
        if self.yarn_factor < 1:
            raise ValueError(f"yarn_factor={self.yarn_factor} must be at least 1 (1 disables YaRN)")
        require_at_least(self, "yarn_original_seq_len", 1)
        require_between(self, "yarn_beta_slow", 1e-3, self.yarn_beta_fast)
        for name in ("yarn_mscale", "yarn_mscale_all_dim"):
            require_between(self, name, 0.0, 100.0)

    def _check_experts(self) -> None:
        for name in ("n_routed_experts", "top_k", "d_expert", "n_expert_groups", "top_k_groups"):
            require_at_least(self, name, 1)
        if self.n_routed_experts % self.n_expert_groups:
            raise ValueError(
                f"n_routed_experts={self.n_routed_experts} is not divisible by "
                f"n_expert_groups={self.n_expert_groups}"
            )
        if self.top_k_groups > self.n_expert_groups:
            raise ValueError(
                f"top_k_groups={self.top_k_groups} is more than "
                f"n_expert_groups={self.n_expert_groups}"
            )
        group_size = self.n_routed_experts // self.n_expert_groups
        if self.n_expert_groups > 1 and self.group_score == "top2_sum" and group_size < 2:
            raise ValueError(
                f"group_score='top2_sum' needs two experts per group, but n_routed_experts="
                f"{self.n_routed_experts} with n_expert_groups={self.n_expert_groups} gives one"
            )
        if self.top_k > self.top_k_groups * group_size:
            raise ValueError(
                f"top_k={self.top_k} is more than the {self.top_k_groups * group_size} experts in "
                f"top_k_groups={self.top_k_groups} groups of {group_size}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: data order, optimizer, balance, logging.

    Raises: ValueError naming the field, what was expected and what was received.
    Source: DeepSeek-V3 (arXiv 2412.19437) §4.2 for betas, clipping and balance, scaled down; the
    schedule is that of arXiv 2404.06395 §4.
    """

    steps: int = 400  # optimizer steps
    batch_size: int = 16  # sequences per step
    seq_len: int = 256  # tokens per sequence
    seed: int = 0  # for the weights and the order of the data

    # optimizer
    optimizer: Literal["muon", "adamw"] = "muon"  # for matrices; everything else always uses AdamW
    learning_rate: float = 0.02  # peak, for matrices; with adamw use about 0.004
    adamw_learning_rate: float = 0.006  # peak, for embeddings, head, norms and router
    weight_decay: float = 0.0  # decoupled, per unit of learning rate
    momentum: float = 0.95  # Muon
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW
    warmup_steps: int = 20  # linear, from 0 to the peak
    decay_fraction: float = 0.6  # final fraction of the run, where the rate falls to zero linearly
    grad_clip: float = 1.0  # largest gradient norm over all parameters; 0: off
    bf16: bool | None = None  # matrix products in bfloat16; None: only if the CPU is faster with it

    # balance
    bias_update_rate: float = 0.003  # γ: step of the expert bias against its load error; 0: off
    bias_update: BiasUpdate = "sign"  # step by the sign of the load error, or in proportion to it
    bias_freeze_fraction: float = 0.03  # final fraction of the run, where the bias is frozen
    balance_loss: BalanceLoss = "sequence"  # balances each sequence or the batch; see losses
    balance_loss_weight: float = 1e-4  # α of the balance loss; 0: off
    z_loss_weight: float = 0.0  # weight of the router's z-loss; 0: off
    mtp_loss_weight: float = 0.3  # λ of the multi-token prediction loss

    # logging and checkpoints
    log_every: int = 1  # steps between log lines
    eval_every: int = 100  # steps between evaluations; the last step always evaluates
    eval_tokens: int = 65_536  # most tokens per domain in an evaluation; 0: all of them
    checkpoint_every: int = 100  # steps between checkpoints, if a folder is given

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("steps", "batch_size", "seq_len", "log_every", "eval_every"):
            require_at_least(self, name, 1)
        for name in ("warmup_steps", "eval_tokens", "seed", "checkpoint_every"):
            require_at_least(self, name, 0)
        for name in ("learning_rate", "adamw_learning_rate"):
            require_positive(self, name)
        for name in ("weight_decay", "grad_clip", "bias_update_rate", "balance_loss_weight"):
            require_not_negative(self, name)
        for name in ("z_loss_weight", "mtp_loss_weight"):
            require_not_negative(self, name)
        for name in ("decay_fraction", "bias_freeze_fraction"):
            require_between(self, name, 0.0, 1.0)
        for name, value in (("momentum", self.momentum), *(("betas", b) for b in self.betas)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")


def check_types(config: object) -> None:
    """Raise ValueError naming the first field whose value is not of its declared type."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not fits(value, field.type):
            kind = field.type.__name__ if isinstance(field.type, type) else field.type
            too_large = type(value) in (int, float) and not -LARGEST < value < LARGEST
            limit = " below 2**31" if too_large else ""
            raise ValueError(f"{field.name}={value!r}: {kind}{limit} expected")


def fits(value: object, declared: object) -> bool:
    """Return whether a value is finite and of the declared type; ints pass as floats, not bools."""
    if declared in (int, float):
        kinds = int if declared is int else int | float
        number = isinstance(value, kinds) and not isinstance(value, bool)
        return number and -LARGEST < value < LARGEST
    if isinstance(declared, type) and get_origin(declared) is None:
        return isinstance(value, declared)
    options = get_args(declared)
    if get_origin(declared) is Literal:
        return isinstance(value, str) and value in options
    if get_origin(declared) is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(options)
            and all(map(fits, value, options))
        )
    return any(fits(value, option) for option in options)


def require_at_least(config: object, name: str, least: int) -> None:
    """Raise ValueError if the named field is below `least`."""
    if getattr(config, name) < least:
        raise ValueError(f"{name}={getattr(config, name)} must be at least {least}")


def require_positive(config: object, name: str) -> None:
    """Raise ValueError unless the named field is above zero."""
    if getattr(config, name) <= 0:
        raise ValueError(f"{name}={getattr(config, name)} must be above 0")


def require_not_negative(config: object, name: str) -> None:
    """Raise ValueError if the named field is below zero."""
    if getattr(config, name) < 0:
        raise ValueError(f"{name}={getattr(config, name)} must not be negative")


def require_between(config: object, name: str, low: float, high: float) -> None:
    """Raise ValueError if the named field is outside [low, high]."""
    if not low <= getattr(config, name) <= high:
        raise ValueError(f"{name}={getattr(config, name)} must lie between {low} and {high}")
