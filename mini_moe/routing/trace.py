"""Record every routing decision of a model on one text, several texts or a long corpus."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mini_moe.arguments import flag, integers, items, whole
from mini_moe.config import ModelConfig
from mini_moe.routing.foreign import Subject, subject_of
from mini_moe.routing.inputs import (
    NAMES,
    check_ids,
    check_stream,
    pieces_of,
    read_labels,
    read_texts,
)

_BY_LAYER = ("router_logits", "scores", "choice_scores", "expert_ids", "gates")
_BY_TOKEN = ("tokens", "text_ids", "targets", "logits", "predicted", "losses", "labels")
_SLICE = 1024  # tokens whose losses are computed at once; bounds the copy of their logits


@dataclass(frozen=True, kw_only=True)
class RoutingTrace:
    """What the routers of all MoE layers saw and chose, token by token, without padding.

    `expert_ids` and `gates` are the ones passed to the experts. For a transformers model,
    `router_logits` are the ones its router returned, and `scores` and `choice_scores` are computed
    from them with the router's own formulas (see `mini_moe.routing.foreign`).
    """

    config: ModelConfig | None  # None unless the model is a mini_moe Transformer
    score_function: str  # "sigmoid" or "softmax": turns the router's logits into scores
    tokens: Int[Tensor, "tokens"]  # ids
    pieces: list[str]  # the tokens as readable text
    layers: tuple[int, ...]  # model layer index of each recorded layer
    router_logits: Float[Tensor, "layers tokens experts"]
    scores: Float[Tensor, "layers tokens experts"]  # sigmoid or softmax of the router's logits
    choice_scores: Float[Tensor, "layers tokens experts"]  # with bias; −inf outside chosen groups
    expert_ids: Int[Tensor, "layers tokens top_k"]  # best choice first
    gates: Float[Tensor, "layers tokens top_k"]  # weight of each chosen expert
    text_ids: Int[Tensor, "tokens"]  # which text (or sequence of a stream) it belongs to
    targets: Int[Tensor, "tokens"]  # the actual next token; −1 at the end of a text
    logits: Float[Tensor, "tokens vocab"] | None = None  # for the token after each position
    predicted: Int[Tensor, "tokens"] | None = None  # the most probable next token
    losses: Float[Tensor, "tokens"] | None = None  # −ln p(target), nats; NaN without a target
    labels: Int[Tensor, "tokens"] | None = None  # the label of each token, as a number
    label_names: tuple[str, ...] = ()  # label_names[n] names label n; empty if they have no names

    @property
    def n_experts(self) -> int:
        """Number of routed experts per layer."""
        return self.scores.shape[-1]

    @property
    def top_k(self) -> int:
        """Number of routed experts per token."""
        return self.expert_ids.shape[-1]

    def take(self, which: Bool[Tensor, "tokens"] | Int[Tensor, "taken"]) -> "RoutingTrace":
        """Return the trace of some of the tokens, given a mask (`labels == 2`) or indices."""
        places = which.nonzero().flatten() if which.dtype == torch.bool else which
        changes: dict[str, Any] = {"pieces": [self.pieces[n] for n in places.tolist()]}
        changes |= {name: getattr(self, name)[:, places] for name in _BY_LAYER}
        for name in _BY_TOKEN:
            value = getattr(self, name)
            changes[name] = None if value is None else value[places]
        return replace(self, **changes)


def trace_routing(
    model: nn.Module,
    text: str | Sequence | np.ndarray | Int[Tensor, "seq"] | Int[Tensor, "batch seq"],
    *,
    tokenizer: Any = None,
    labels: Any = None,
    label_names: Sequence[str] = (),
    batch_size: int = 1,
    keep_logits: bool = True,
) -> RoutingTrace:
    """Run a model over one or more texts and keep each layer's scores, choices and gates.

    Recording changes neither the model's output, bit for bit, nor its training mode. `model` is a
    mini_moe Transformer or a transformers model (see `foreign.SUPPORTED`).
    `text` is a string, token ids, or a list of either; an array [batch, seq] is one batch of
    texts. `tokenizer` is ours or one from transformers, which adds its own special tokens; the
    default is the model's. `labels` has one number or name per text, or one sequence per text with
    a label per token.
    The texts of a list run one at a time, so each gives the same numbers as on its own. A larger
    `batch_size` is faster: texts are right-padded and masked, and results agree up to rounding.

    Raises: ValueError for an empty or mixed list, a string without a tokenizer, labels of the
    wrong length, ids out of range, more tokens than the model accepts, or a model without experts
    or with experts of an unknown kind.
    """
    batch_size, keep_logits = whole("batch_size", batch_size, 1), flag("keep_logits", keep_logits)
    subject = subject_of(model)
    tokenizer = subject.tokenizer if tokenizer is None else tokenizer
    texts, several = read_texts(text, tokenizer)
    check_ids(texts, subject.vocab_size, subject.max_seq_len)
    numbers, names = read_labels(labels, [len(ids) for ids in texts], label_names, several)
    if isinstance(text, Tensor | np.ndarray):
        batch_size = len(texts)
    parts = []
    for first in range(0, len(texts), batch_size):
        batch = texts[first : first + batch_size]
        targets = [_targets(ids) for ids in batch]
        parts.append(_trace_batch(subject, batch, targets, first, keep_logits))
    trace = _join(parts)
    if numbers is not None:
        numbers = torch.cat(numbers).to(subject.device)
    pieces = pieces_of(torch.cat(texts).tolist(), tokenizer)
    return replace(trace, pieces=pieces, labels=numbers, label_names=names)


def stream_routing(
    model: nn.Module,
    tokens: Sequence | np.ndarray | Int[Tensor, "n_tokens"],
    *,
    labels: Sequence | np.ndarray | Int[Tensor, "n_tokens"] | None = None,
    label_names: Sequence[str] = (),
    tokenizer: Any = None,
    seq_len: int = 256,
    batch_tokens: int = 8192,
) -> Iterator[RoutingTrace]:
    """Yield the routing of a corpus of any length as traces of `batch_tokens` tokens, no logits.

    The stream is cut into sequences of `seq_len` tokens, and none sees the tokens before it; the
    last one may be shorter. `text_ids` number the sequences of the whole stream; `targets` carry
    on from one sequence to the next. Only one batch is in memory at a time, so memory does not
    grow with the corpus if you drop each trace before taking the next. `tokens` may stay on disk
    (a numpy memmap).

    Raises: ValueError for an empty stream, labels of the wrong length, `seq_len` above what the
    model accepts, `batch_tokens` below `seq_len`, ids out of range, or a model that
    `trace_routing` rejects.
    """
    subject = subject_of(model)
    tokenizer = subject.tokenizer if tokenizer is None else tokenizer
    seq_len, batch_tokens = whole("seq_len", seq_len), whole("batch_tokens", batch_tokens)
    check_stream(tokens, labels, seq_len, batch_tokens, subject.max_seq_len)
    names = tuple(items("label_names", label_names, NAMES, ordered=True))
    return _stream(subject, tokens, labels, names, tokenizer, seq_len, batch_tokens)


def _stream(
    subject: Subject,
    tokens: Any,
    labels: Any,
    names: tuple[str, ...],
    tokenizer: Any,
    seq_len: int,
    batch_tokens: int,
) -> Iterator[RoutingTrace]:
    """Yield one trace per batch of full sequences, and one for a shorter last sequence."""
    n_tokens, step = len(tokens), batch_tokens // seq_len * seq_len
    whole = n_tokens // seq_len * seq_len
    starts = [*range(0, whole, step), *([whole] if whole < n_tokens else [])]
    for start, end in zip(starts, [*starts[1:], n_tokens], strict=True):
        parts = [tokens[n : n + end - start] for n in (start, start + 1)]
        ids, following = (_on_cpu("tokens", part) for part in parts)
        targets = F.pad(following, (0, len(ids) - len(following)), value=-1)
        sequences = list(ids.split(seq_len))
        check_ids(sequences, subject.vocab_size, subject.max_seq_len)
        numbers = (
            None if labels is None else _on_cpu("labels", labels[start:end]).to(subject.device)
        )
        yield replace(
            _trace_batch(subject, sequences, list(targets.split(seq_len)), start // seq_len, False),
            pieces=pieces_of(ids.tolist(), tokenizer),
            labels=numbers,
            label_names=names,
        )


def _on_cpu(name: str, part: Any) -> Int[Tensor, "n"]:
    if isinstance(part, Tensor):
        return integers(name, part).long().cpu()
    part = np.asarray(part)
    if part.size and part.dtype.kind not in "iu":
        raise ValueError(f"{name}: integers expected, got {part.dtype}")
    return torch.from_numpy(part.astype(np.int64))


def _targets(ids: Int[Tensor, "seq"]) -> Int[Tensor, "seq"]:
    return torch.cat([ids[1:], ids.new_tensor([-1])])


def _trace_batch(
    subject: Subject,
    sequences: list[Tensor],
    targets: list[Tensor],
    first_text: int,
    keep_logits: bool,
) -> RoutingTrace:
    """Run some sequences of ids as one right-padded batch and drop the padding from the trace."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = pad_sequence(sequences, batch_first=True).to(subject.device)
    padded = len(set(lengths.tolist())) > 1
    inside = (torch.arange(tokens.shape[1]) < lengths[:, None]).to(subject.device)
    with torch.no_grad():
        logits, routings = subject.run(tokens, inside if padded else None)
    inside = inside.flatten()
    recorded = {}
    for name in _BY_LAYER:
        field = "logits" if name == "router_logits" else name
        layers = [getattr(routing, field).to(subject.device) for routing in routings]
        recorded[name] = torch.stack([layer[inside] if padded else layer for layer in layers])
    follow = torch.cat(targets).to(subject.device)
    if logits is not None:
        logits = logits.flatten(0, 1)
        logits = logits[inside] if padded else logits
        recorded |= {"predicted": logits.argmax(dim=-1), "losses": _losses(logits, follow)}
    return RoutingTrace(
        config=subject.config,
        score_function=subject.score_function,
        tokens=torch.cat(sequences).to(subject.device),
        pieces=[],
        layers=subject.layers,
        text_ids=torch.repeat_interleave(torch.arange(len(sequences)) + first_text, lengths).to(
            subject.device
        ),
        targets=follow,
        logits=logits if keep_logits else None,
        **recorded,
    )


def _losses(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, "tokens"]
) -> Float[Tensor, "tokens"]:
    """Return each position's cross-entropy in fp32, computed in slices; NaN without a target."""
    slices = zip(logits.split(_SLICE), targets.split(_SLICE), strict=True)
    losses = torch.cat(
        [F.cross_entropy(x.float(), y, ignore_index=-1, reduction="none") for x, y in slices]
    )
    return losses.masked_fill(targets < 0, float("nan"))


def _join(parts: list[RoutingTrace]) -> RoutingTrace:
    """Concatenate traces of the same model."""
    if len(parts) == 1:
        return parts[0]
    changes = {name: torch.cat([getattr(p, name) for p in parts], dim=1) for name in _BY_LAYER}
    for name in _BY_TOKEN:
        values = [getattr(part, name) for part in parts]
        changes[name] = None if values[0] is None else torch.cat(values)
    return replace(parts[0], **changes)
