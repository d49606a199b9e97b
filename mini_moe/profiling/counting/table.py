"""Count parameters, FLOPs and bytes of every module, as a table."""

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch

from mini_moe.config import ModelConfig
from mini_moe.model import Transformer
from mini_moe.ops import compiled
from mini_moe.profiling.counting.parts import Latent, Pairs, Part, Work, parts_of

KINDS = ("embedding", "norms", "attention projections", "attention core", "dense feed-forward",
         "router", "routed experts", "shared experts", "head", "mtp")  # fmt: skip
LABELS = {
    "parameters": "parameters", "active_parameters": "active", "flops_forward": "FLOPs forward",
    "flops_training": "training", "weight_bytes": "bytes weights",
    "activation_bytes": "activations", "cache_bytes": "cache",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table. FLOPs and bytes are for the whole call, not per token."""

    name: str
    kind: str
    parameters: int = 0
    active_parameters: int = 0
    flops_forward: int = 0
    flops_training: int = 0  # forward and backward; 0 with a cache
    weight_bytes: int = 0
    activation_bytes: int = 0
    cache_bytes: int = 0

    @property
    def bytes_forward(self) -> int:
        """Minimum traffic of a forward pass: weights, inputs, outputs and cache, once each."""
        return self.weight_bytes + self.activation_bytes + self.cache_bytes

    @property
    def intensity(self) -> float:
        """FLOPs of a forward pass per byte that it moves."""
        return self.flops_forward / self.bytes_forward if self.bytes_forward else 0.0


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Every module's line, and sums over them; `print` shows one line per kind."""

    config: ModelConfig
    work: Work
    modules: tuple[Row, ...]  # in order of execution, MTP modules last

    @property
    def kinds(self) -> tuple[Row, ...]:
        """One line per kind, summed over layers; everything in MTP modules is of kind "mtp"."""
        made = (_sum((r for r in self.modules if kind_of(r) == kind), kind) for kind in KINDS)
        return tuple(row for row in made if row.parameters or row.bytes_forward)

    @property
    def total(self) -> Row:
        """The sum over everything, including MTP modules."""
        return _sum(self.modules, "total")

    @property
    def main(self) -> Row:
        """The sum without MTP modules: what `model(tokens)` runs, as in DeepSeek's figures."""
        return _sum((row for row in self.modules if kind_of(row) != "mtp"), "main model")

    def under(self, path: str) -> Row:
        """Return the sum over a module and everything below it, e.g. "layers.3.mlp" or "layers".

        Raises: ValueError for a path that no module has.
        """
        found = [r for r in self.modules if r.name == path or r.name.startswith(f"{path}.")]
        if not found:
            raise ValueError(f"path: a module such as 'layers.0.self_attn' expected, got {path!r}")
        return _sum(found, path)

    def __getitem__(self, kind: str) -> Row:
        """Return the line of one kind, as in counts["routed experts"]."""
        for row in self.kinds:
            if row.kind == kind:
                return row
        raise ValueError(f"kind: one of {[r.kind for r in self.kinds]} expected, got {kind!r}")

    def __str__(self) -> str:
        work = self.work
        cached = "" if work.context is None else f", {work.context:,} in the cache"
        head = f"{work.batch:,} × {work.seq:,} tokens{cached}; {work.pairs} attention"
        return f"{head}\n{_text((*self.kinds, self.total))}"


def count(
    model: ModelConfig | Transformer, *, batch: int = 1, seq: int, context: int | None = None,
    pairs: Pairs = "causal", latent: Latent = "expanded", dtype: torch.dtype | None = None,
) -> Counts:  # fmt: skip
    """Count the cost of one call, module by module, from the configuration; allocates nothing.

    FLOPs are those of matrix products, 2 per multiply-add, as torch's `FlopCounterMode` counts
    them. Attention's `pairs`: "causal" counts the pairs a query can see; "square" all pairs,
    masked or not; "executed" what torch counts when it runs here: blocks of queries, or all pairs
    if one kernel does it.
    Training means forward and backward with every parameter trained. With `context`, the call is a
    forward pass on `seq` new tokens with that many in the cache; `latent` says how the cache is
    used (see `attention`). Bytes are minimum traffic: every weight, input and output once, in
    `dtype` (default: the parameters' own; float32 for a configuration), with the router in fp32;
    work between products (activation functions, RoPE, sums) is left out.

    Raises: ValueError for counts below one, more positions than max_seq_len, or unknown names.
    Source: 2 FLOPs per weight and token, Kaplan et al., arXiv 2001.08361 §2.1.
    """
    config, own = config_of(model)
    kind = dtype or own
    _require(isinstance(kind, torch.dtype), "dtype", "a torch.dtype", kind)
    for name, value, least in (("batch", batch, 1), ("seq", seq, 1), ("context", context, 0)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        fits = whole or (name == "context" and value is None)
        _require(fits, name, f"a whole number of at least {least}", value)
    for name, value, options in (("pairs", pairs, Pairs), ("latent", latent, Latent)):
        known = options.__args__
        _require(value in known, name, f"one of {list(known)}", value)
    work = Work(
        batch=batch, seq=seq, context=context, pairs=pairs, latent=latent, n_bytes=kind.itemsize,
        fused=pairs == "executed" and attention_is_fused(kind),
    )  # fmt: skip
    if work.keys > config.max_seq_len:
        raise ValueError(
            f"seq: at most max_seq_len={config.max_seq_len} positions expected, got {work.keys}"
        )
    rows = tuple(_row(part, trained=context is None) for part in parts_of(config, work))
    return Counts(config=config, work=work, modules=rows)


def attention_is_fused(dtype: torch.dtype) -> bool:
    """Whether attention in this dtype currently runs as a compiled kernel."""
    sample = torch.empty(0, dtype=dtype)
    return compiled.serves(sample, sample)


def config_of(model: ModelConfig | Transformer) -> tuple[ModelConfig, torch.dtype]:
    """Return configuration and parameter dtype; raise ValueError for anything but a model."""
    if isinstance(model, ModelConfig):
        return model, torch.float32
    if isinstance(model, Transformer):
        return model.config, model.embed_tokens.weight.dtype
    raise ValueError(f"model: a ModelConfig or a Transformer expected, got {type(model).__name__}")


def _require(holds: bool, name: str, expected: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name}: {expected} expected, got {value!r}")


def _row(part: Part, trained: bool) -> Row:
    columns = {f.name: getattr(part, f.name) for f in fields(Row) if f.name != "flops_training"}
    training = part.flops_forward + part.flops_backward if trained else 0
    return Row(**columns, flops_training=training)


def kind_of(row: Row) -> str:
    """Return the kind (line of the table) that a module belongs to."""
    return "mtp" if row.name.startswith("mtp.") else row.kind


def _sum(rows: Iterable[Row], name: str) -> Row:
    kept = tuple(rows)
    numbers = [field.name for field in fields(Row) if field.type is int]
    return Row(name=name, kind=name, **{n: sum(getattr(r, n) for r in kept) for n in numbers})


def _text(rows: tuple[Row, ...]) -> str:
    """Format the columns that are not all zero, with units; FLOPs per byte last."""
    shown = [name for name in LABELS if any(getattr(row, name) for row in rows)]
    lines = [["", *(LABELS[name] for name in shown), "FLOPs/byte"]]
    for row in rows:
        numbers = [with_unit(getattr(row, name)) for name in shown]
        lines.append([row.name, *numbers, f"{row.intensity:.1f}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )


def with_unit(number: int) -> str:
    """Format with four digits and a unit prefix: 671,026,419,200 as "671.0 G"."""
    for exponent, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**exponent:
            return f"{number / 10**exponent:#.4g} {unit}"
    return f"{number} "
