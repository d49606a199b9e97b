"""The whole model: embedding, blocks and head, with its parameter count."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mini_moe.config import ModelConfig
from mini_moe.model.attention import Cache, MultiHeadLatentAttention
from mini_moe.model.experts import Experts
from mini_moe.model.layers import Linear, RMSNorm, SwiGLU
from mini_moe.model.moe import MoE
from mini_moe.model.mtp import MultiTokenPrediction
from mini_moe.model.rope import rope_rotation
from mini_moe.model.router import Routing


class Transformer(nn.Module):
    """A DeepSeek-V3-style language model: tokens [batch, seq] in, logits [batch, seq, vocab] out.

    Module and parameter names are those of DeepSeek's checkpoints. `load_hf` and training set
    `tokenizer`; the model itself works on token ids.
    Source: DeepSeek-V3, arXiv 2412.19437 §2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = None
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.lm_head = Linear(config.d_model, config.vocab_size)
        if config.tie_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.mtp = nn.ModuleList(
            MultiTokenPrediction(config, Block(config, config.n_layers + depth))
            for depth in range(config.n_mtp_layers)
        )
        self.apply(self._init_weights)

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        cache: Cache | None = None,
        routings: list[Routing] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the logits of the token after each position.

        With `routings`, each MoE layer appends its decisions to the list. With a cache, `tokens`
        continue the cached sequence.
        Raises: ValueError for an empty batch, ids out of range, or more than max_seq_len positions.
        """
        return self.lm_head(self.hidden(tokens, cache=cache, routings=routings))

    def hidden(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        cache: Cache | None = None,
        routings: list[Routing] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Return the normalised vectors that the head turns into logits."""
        start = 0 if cache is None else len(cache)
        self.check_tokens(tokens, start)
        rotation = rope_rotation(self.config, start, tokens.shape[1], tokens.device)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, rotation, cache, routings)
        return self.norm(x)

    def mtp_hidden(
        self,
        hidden: Float[Tensor, "batch seq d_model"],
        tokens: Int[Tensor, "batch seq"],
        depth: int = 0,
        routings: list[Routing] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Apply MTP module `depth`; its output predicts one token further ahead than `hidden`.

        `tokens` are the tokens that `hidden` predicts, so position i holds the true token i + 1.
        Raises: ValueError if there is no module `depth`, or for bad tokens, as in `forward`.
        """
        if not 0 <= depth < len(self.mtp):
            raise ValueError(f"depth={depth} must lie in [0, n_mtp_layers={len(self.mtp)})")
        self.check_tokens(tokens, 0)
        rotation = rope_rotation(self.config, 0, tokens.shape[1], tokens.device)
        return self.mtp[depth](hidden, self.embed_tokens(tokens), rotation, routings)

    def count_parameters(self) -> tuple[int, int]:
        """Return the total and active parameters, counted from the modules, excluding MTP.

        Active parameters are those a token uses: all but the routed experts it is not sent to. The
        expert bias counts as a parameter, as in DeepSeek's figures. Embedding and head both count,
        but only once if tied.
        """
        counted = (*self.named_parameters(), *self.named_buffers())
        total = sum(tensor.numel() for name, tensor in counted if not name.startswith("mtp."))
        idle = 0
        for layer in self.layers:
            for module in layer.modules():
                if isinstance(module, Experts):
                    held = sum(p.numel() for p in module.parameters())
                    idle += held - held * self.config.top_k // self.config.n_routed_experts
        return total, total - idle

    def check_tokens(self, tokens: Tensor, start: int) -> None:
        """Raise ValueError unless tokens are [batch, seq] ids in the vocabulary that fit."""
        if tokens.ndim != 2 or not tokens.numel():
            raise ValueError(f"tokens: a non-empty [batch, seq] expected, got {list(tokens.shape)}")
        if tokens.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"tokens: integers (int32 or int64) expected, got {tokens.dtype}")
        end = start + tokens.shape[1]
        if end > self.config.max_seq_len:
            raise ValueError(
                f"tokens reach position {end}, but max_seq_len={self.config.max_seq_len}"
            )
        if torch.compiler.is_compiling() or tokens.is_meta:
            return
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.config.vocab_size:
            raise ValueError(
                f"tokens must lie in [0, vocab_size={self.config.vocab_size}), got {low} to {high}"
            )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, RMSNorm):
            for weight in module.parameters(recurse=False):
                nn.init.normal_(weight, std=self.config.weight_std)


class Block(nn.Module):
    """Attention, then a feed-forward network or experts, each with a pre-norm and a residual."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.self_attn = MultiHeadLatentAttention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.d_model, config.norm_eps)
        self.is_moe = config.n_moe_layers > 0 and layer >= config.n_dense_layers
        self.mlp = MoE(config) if self.is_moe else SwiGLU(config.d_model, config.d_ff)

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        rotation: Float[Tensor, "seq pairs 2"],
        cache: Cache | None = None,
        routings: list[Routing] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        x = x + self.self_attn(self.input_layernorm(x), rotation, cache)
        normed = self.post_attention_layernorm(x)
        return x + (self.mlp(normed, routings) if self.is_moe else self.mlp(normed))
