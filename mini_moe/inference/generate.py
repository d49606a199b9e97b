"""Generate text token by token, for one or several prompts, all at once or as a stream."""

from collections.abc import Collection, Iterator, Sequence

from mini_moe.arguments import whole
from mini_moe.inference.cache import LatentCache
from mini_moe.inference.engine import Decoder
from mini_moe.inference.sampling import Sampling
from mini_moe.inference.sequences import (
    Generation,
    Piece,
    Prompt,
    SequenceState,
    make_sequences,
    prompts_of,
    take_all,
)
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
    """Return what the model writes after `prompt`: a string for a string, token ids for ids.

    The prompt itself is not included. A list of prompts, of any lengths, gives a list of what each
    gives on its own. Generation ends at a `stop_token`, before a `stop` string, after
    max_new_tokens, or when max_seq_len is reached. Temperature 0 always takes the likeliest token.
    The same seed gives the same text; of several prompts, prompt i uses seed + i, or seed[i].

    Raises: ValueError for an empty prompt, ids out of range, a string without a tokenizer, a
    prompt longer than the model accepts, settings that `Sampling` rejects, an argument of the
    wrong type, or logits that are not finite.
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
    """Generate for a list of prompts; return text, tokens, log-probabilities and why each ended.

    Arguments and errors as for `generate`, with all sampling settings in `sampling`.
    """
    sequences = make_sequences(
        model, prompts, max_new_tokens, sampling, seed, stop_token, stop, log_probabilities
    )
    for _ in write(Decoder(model), sequences):
        pass
    return [sequence.generation() for sequence in sequences]


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
    """Generate for one prompt, yielding each token as it is written; you may stop at any time.

    Text comes in whole characters and never contains part of a stop string: uncertain text waits
    for the next piece, so the last piece may have text but no token. Arguments are checked
    immediately. With `ahead`, the model's MTP module proposes that many tokens per pass.
    """
    sequences = make_sequences(
        model, [prompt], max_new_tokens, sampling, seed, stop_token, stop, log_probabilities
    )
    ahead, decoder = whole("ahead", ahead, 0), Decoder(model)
    if ahead:
        writing = write_ahead(Drafter(decoder, ahead), sequences[0], Speculation())
    else:
        writing = write(decoder, sequences)
    return pieces(writing, sequences[0])


def pieces(writing: Iterator[None], sequence: SequenceState) -> Iterator[Piece]:
    """Yield the pieces of one sequence as they are written."""
    for _ in writing:
        if sequence.ended != "stop token":
            yield sequence.last_piece
    if rest := sequence.finish():
        yield Piece(None, rest, None)


def write(decoder: Decoder, sequences: list[SequenceState]) -> Iterator[None]:
    """Add one token to every unfinished sequence, yield, and repeat until all have ended."""
    active = [sequence for sequence in sequences if not sequence.ended]
    if not active:
        return
    longest = max(len(sequence.prompt) + sequence.limit - 1 for sequence in active)
    cache = LatentCache(decoder.model, len(active), longest)
    hidden = decoder.prefill([sequence.prompt for sequence in active], cache)
    while active:
        take_all(active, decoder.logits(hidden))
        yield
        for index in reversed(range(len(active))):
            if active[index].ended:
                cache.drop(index)
                active[index] = active[-1]
                active.pop()
        if active:
            last = decoder.as_tokens([[sequence.tokens[-1]] for sequence in active])
            hidden = decoder.read(last, cache)[:, -1]
