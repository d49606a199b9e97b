"""Record every routing decision of a model: for one text, for several, for a long corpus."""

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
    """What the routers of all MoE layers saw and chose, token by token; padding is left out.

    `expert_ids` and `gates` are what the experts were given. For a model from transformers,
    `router_logits` are what its router returned, and `scores` and `choice_scores` are made from
    them with the router's own expressions (see `mini_moe.routing.foreign`).
    """

    config: ModelConfig | None  # of a model of this package; None for others
    score_function: str  # "sigmoid" or "softmax": what makes scores of the router's logits
    tokens: Int[Tensor, "tokens"]  # ids
    pieces: list[str]  # the tokens as readable text
    layers: tuple[int, ...]  # index in the model of each recorded layer
    router_logits: Float[Tensor, "layers tokens experts"]
    scores: Float[Tensor, "layers tokens experts"]  # sigmoid or softmax of the router's logits
    choice_scores: Float[Tensor, "layers tokens experts"]  # + bias; −inf outside chosen groups
    expert_ids: Int[Tensor, "layers tokens top_k"]  # best choice first
    gates: Float[Tensor, "layers tokens top_k"]  # weight of each chosen expert
    text_ids: Int[Tensor, "tokens"]  # which text, or which row of a stream, a token belongs to
    targets: Int[Tensor, "tokens"]  # the token that really follows; −1 where there is none
    logits: Float[Tensor, "tokens vocab"] | None = None  # of the token after each position
    predicted: Int[Tensor, "tokens"] | None = None  # the most probable next token
    losses: Float[Tensor, "tokens"] | None = None  # −ln p(target), nats; NaN without a target
    labels: Int[Tensor, "tokens"] | None = None  # the number given to each token
    label_names: tuple[str, ...] = ()  # names of those numbers, where they have names

    @property
    def n_experts(self) -> int:
        """Routed experts a layer."""
        return self.scores.shape[-1]

    @property
    def top_k(self) -> int:
        """Routed experts a token."""
        return self.expert_ids.shape[-1]

    def take(self, which: Bool[Tensor, "tokens"] | Int[Tensor, "taken"]) -> "RoutingTrace":
        """The trace of some tokens only: a mask, such as `labels == 2`, or places in order."""
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
    """Run a model over a text, or several, and keep each layer's scores, choices and gates.

    The model computes what it would compute anyway: recording changes no bit of its result, nor
    whether it is training. `model` is one of ours or of transformers (`foreign.SUPPORTED`).
    `text` is a string, token ids, or a list of either; an array [batch, seq] is one batch of
    texts. `tokenizer` (ours, or one of transformers with its own special tokens) defaults to the
    model's. `labels`: a number or name for each text, or a sequence of one for each token.
    Texts of a list run one by one, so that they get the numbers they get alone; `batch_size`
    texts at once are faster, padded on the right behind a mask, and equal up to rounding.

    Raises: ValueError for an empty or mixed list, a text without a tokenizer, labels of another
    length, ids out of range, more tokens than the model accepts, or a model without experts or
    with experts of an unknown kind.
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
        rows = texts[first : first + batch_size]
        part = _trace_rows(subject, rows, [_targets(ids) for ids in rows], first, keep_logits)
        parts.append(part)
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
    """The routing of a corpus of any length, as traces of `batch_tokens` tokens, without logits.

    The stream is cut into rows of `seq_len` tokens, each read without what came before it; the
    last row may be shorter. `text_ids` number the rows through the whole stream; `targets` go on
    across rows. Only one batch is held at a time, so memory does not grow with the corpus: let
    each trace go before asking for the next. `tokens` may stay on disk (a numpy memmap).

    Raises: ValueError for an empty stream, labels of another length, `seq_len` above what the
    model accepts, `batch_tokens` below `seq_len`, ids out of range, or a model that
    `trace_routing` refuses.
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
    """One trace for each batch of whole rows, and one for a shorter last row."""
    n_tokens, step = len(tokens), batch_tokens // seq_len * seq_len
    whole = n_tokens // seq_len * seq_len
    starts = [*range(0, whole, step), *([whole] if whole < n_tokens else [])]
    for start, end in zip(starts, [*starts[1:], n_tokens], strict=True):
        parts = [tokens[n : n + end - start] for n in (start, start + 1)]
        ids, following = (_on_cpu("tokens", part) for part in parts)
        targets = F.pad(following, (0, len(ids) - len(following)), value=-1)
        rows = list(ids.split(seq_len))
        check_ids(rows, subject.vocab_size, subject.max_seq_len)
        numbers = (
            None if labels is None else _on_cpu("labels", labels[start:end]).to(subject.device)
        )
        yield replace(
            _trace_rows(subject, rows, list(targets.split(seq_len)), start // seq_len, False),
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


def _trace_rows(
    subject: Subject,
    rows: list[Tensor],
    targets: list[Tensor],
    first_text: int,
    keep_logits: bool,
) -> RoutingTrace:
    """Run some rows of ids as one batch, padded on the right, and leave the padding out."""
    lengths = torch.tensor([len(row) for row in rows])
    tokens = pad_sequence(rows, batch_first=True).to(subject.device)
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
        tokens=torch.cat(rows).to(subject.device),
        pieces=[],
        layers=subject.layers,
        text_ids=torch.repeat_interleave(torch.arange(len(rows)) + first_text, lengths).to(
            subject.device
        ),
        targets=follow,
        logits=logits if keep_logits else None,
        **recorded,
    )


def _losses(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, "tokens"]
) -> Float[Tensor, "tokens"]:
    """Cross-entropy of each token's successor in fp32, in slices; NaN where none follows."""
    slices = zip(logits.split(_SLICE), targets.split(_SLICE), strict=True)
    losses = torch.cat(
        [F.cross_entropy(x.float(), y, ignore_index=-1, reduction="none") for x, y in slices]
    )
    return losses.masked_fill(targets < 0, float("nan"))


def _join(parts: list[RoutingTrace]) -> RoutingTrace:
    """Traces of one model, one after the other."""
    if len(parts) == 1:
        return parts[0]
    changes = {name: torch.cat([getattr(p, name) for p in parts], dim=1) for name in _BY_LAYER}
    for name in _BY_TOKEN:
        values = [getattr(part, name) for part in parts]
        changes[name] = None if values[0] is None else torch.cat(values)
    return replace(parts[0], **changes)
