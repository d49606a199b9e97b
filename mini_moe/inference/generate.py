"""Write on from prompts, token by token: one or several at once, whole or as a stream."""

from collections.abc import Collection, Iterator, Sequence

from mini_moe.arguments import whole
from mini_moe.inference.cache import LatentCache
from mini_moe.inference.engine import Decoder
from mini_moe.inference.rows import Generation, Piece, Prompt, Row, make_rows, prompts_of, take_all
from mini_moe.inference.sampling import Sampling
from mini_moe.inference.speculative import Drafter, Speculation, write_ahead
from mini_moe.model import Transformer


def generate(
    model: Transformer,
    prompt: Prompt | Sequence[Prompt],
    max_new_tokens: int = 100,
    *,
    temperature: float = 0.8,
    top_p: float = 0.95,
    top_k: int | None = None,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    seed: int | Sequence[int] | None = None,
    stop_token: int | Collection[int] | None = None,
    stop: str | Sequence[str] | None = None,
) -> str | list[int] | list[str] | list[list[int]]:
    """What the model writes after `prompt`: text for text, token ids for ids, prompt not included.

    For a list of prompts, of any lengths, the list of what each gets on its own. Ends at a
    `stop_token` or before a `stop` string, after max_new_tokens, or where the model's longest
    sequence is reached. Temperature 0 always takes the likeliest token; the same seed gives the
    same text, and row i of several prompts is drawn with seed + i, or with its own.

    Raises: ValueError for an empty prompt, ids out of range, a text without a tokenizer, a prompt
    longer than the model accepts, settings that `Sampling` refuses, an argument of another type,
    or logits that are not finite.
    """
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
    )
    prompts, several = prompts_of(prompt)
    written = complete(
        model, prompts, max_new_tokens, sampling=sampling, seed=seed, stop_token=stop_token,
        stop=stop,
    )  # fmt: skip
    answers = [
        one.text if isinstance(own, str) else one.tokens
        for own, one in zip(prompts, written, strict=True)
    ]
    return answers if several else answers[0]


def complete(
    model: Transformer,
    prompts: Sequence[Prompt],
    max_new_tokens: int = 100,
    *,
    sampling: Sampling | None = None,
    seed: int | Sequence[int] | None = None,
    stop_token: int | Collection[int] | None = None,
    stop: str | Sequence[str] | None = None,
    log_probabilities: bool = False,
) -> list[Generation]:
    """`generate` for a list of prompts, with tokens, log-probabilities and why each one ended."""
    rows = make_rows(
        model, prompts, max_new_tokens, sampling, seed, stop_token, stop, log_probabilities
    )
    for _ in write(Decoder(model), rows):
        pass
    return [row.generation() for row in rows]


def stream(
    model: Transformer,
    prompt: Prompt,
    max_new_tokens: int = 100,
    *,
    sampling: Sampling | None = None,
    seed: int | None = None,
    stop_token: int | Collection[int] | None = None,
    stop: str | Sequence[str] | None = None,
    log_probabilities: bool = False,
    ahead: int = 0,
) -> Iterator[Piece]:
    """`generate` for one prompt, yielding each token as it is written; stop reading at any time.

    Text comes in whole characters, and never a part of a stop string: what is uncertain waits for
    the next piece, the last of which may have no token. Arguments are checked at once. With
    `ahead`, the model's MTP module proposes that many tokens a pass.
    """
    rows = make_rows(
        model, [prompt], max_new_tokens, sampling, seed, stop_token, stop, log_probabilities
    )
    ahead, decoder = whole("ahead", ahead, 0), Decoder(model)
    if ahead:
        writing = write_ahead(Drafter(decoder, ahead), rows[0], Speculation())
    else:
        writing = write(decoder, rows)
    return pieces(writing, rows[0])


def pieces(writing: Iterator[None], row: Row) -> Iterator[Piece]:
    """The pieces of one row, made as they are asked for."""
    for _ in writing:
        if row.ended != "stop token":
            yield row.last_piece
    if rest := row.finish():
        yield Piece(None, rest, None)


def write(decoder: Decoder, rows: list[Row]) -> Iterator[None]:
    """Give every row that has not ended one more token, again and again, until all have."""
    active = [row for row in rows if not row.ended]
    if not active:
        return
    longest = max(len(row.prompt) + row.limit - 1 for row in active)
    cache = LatentCache(decoder.model, len(active), longest)
    hidden = decoder.prefill([row.prompt for row in active], cache)
    while active:
        take_all(active, decoder.logits(hidden))
        yield
        for index in reversed(range(len(active))):
            if active[index].ended:
                cache.drop(index)
                active[index] = active[-1]
                active.pop()
        if active:
            last = decoder.as_tokens([[row.tokens[-1]] for row in active])
            hidden = decoder.read(last, cache)[:, -1]
