"""Write on from a prompt, token by token."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mini_moe.inference.cache import KeyValueCache
from mini_moe.model import Transformer


@torch.no_grad()
def generate(
    model: Transformer,
    prompt: str | list[int],
    max_new_tokens: int = 100,
    *,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int | None = None,
    stop_token: int | None = None,
) -> str | list[int]:
    """What the model writes after `prompt`: text for text, token ids for ids, prompt not included.

    Keeps a latent cache, so each new token costs one position. Ends at `stop_token`, after
    max_new_tokens, or where the model's longest sequence is reached. Temperature 0 always takes the
    likeliest token; the same seed gives the same text.

    Raises: ValueError for an empty prompt, a text without a tokenizer, a prompt longer than the
    model accepts, a negative temperature, or a top_p outside (0, 1].
    """
    if not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise ValueError(f"max_new_tokens={max_new_tokens!r} must be an integer of at least 0")
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} must not be negative")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must lie in (0, 1]")
    if isinstance(prompt, str) and model.tokenizer is None:
        raise ValueError("prompt: this model has no tokenizer; pass token ids, or set one")
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise ValueError("prompt: at least one token expected, got an empty prompt")
    room = model.config.max_seq_len - len(ids) + 1  # the last token is written, never read
    if room < 1:
        raise ValueError(
            f"prompt: at most max_seq_len={model.config.max_seq_len} tokens expected, "
            f"got {len(ids)}"
        )
    readable = model.tokenizer.vocab_size if isinstance(prompt, str) else None
    device = model.embed_tokens.weight.device
    generator = torch.Generator(device).manual_seed(seed) if seed is not None else None

    cache, written = KeyValueCache(), []
    tokens = torch.tensor([ids], device=device)
    for _ in range(min(max_new_tokens, room)):
        logits = model(tokens, cache=cache)[:, -1, :readable]
        tokens = sample_token(logits, temperature, top_p, generator)
        if int(tokens) == stop_token:
            break
        written.append(int(tokens))
    return model.tokenizer.decode(written) if isinstance(prompt, str) else written


def sample_token(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_p: float,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch 1"]:
    """Draw from softmax(logits / temperature), kept to the likeliest tokens that make up top_p.

    Source: nucleus sampling, Holtzman et al., arXiv 1904.09751 §3.1.
    """
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    below_best = logits.float() - logits.float().amax(dim=-1, keepdim=True)
    probabilities, order = (below_best / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    kept = probabilities.masked_fill(before >= top_p, 0)
    drawn = torch.multinomial(kept, 1, generator=generator)
    return order.gather(-1, drawn)
