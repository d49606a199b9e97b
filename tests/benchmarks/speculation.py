"""How many of the MTP module's proposals are accepted, by domain, and how much time that saves.

Prompts are the first 32 tokens of eight validation documents per domain; 64 tokens are written
after each, with one, two and three proposals per pass, greedy and sampled. Speed is relative to
ordinary decoding with the same model, alternating; greedy texts must match token for token.
"""

import itertools
import statistics
from pathlib import Path

from mini_moe import Transformer, load_hf
from mini_moe.inference import Sampling, complete, speculate
from mini_moe.inference.speculative import Speculation
from mini_moe.text import DOMAINS, data_folder, load_corpus
from mini_moe.text.batches import Split, domain_split
from tests.benchmarks.common import alternate, report

CHECKPOINT = data_folder() / "checkpoints" / "tiny"
PROMPTS, PROMPT, WRITTEN = 8, 32, 64
AHEAD = (1, 2, 3)
WAYS = {"greedy": Sampling(temperature=0.0), "sampled": Sampling()}


def main(checkpoint: Path = CHECKPOINT, rounds: int = 5) -> None:
    """Measure, print, write results/speculation.json."""
    model, corpus = load_hf(checkpoint, mtp=True), load_corpus()
    rows = []
    for domain, (way, sampling) in itertools.product(range(len(DOMAINS)), WAYS.items()):
        prompts = beginnings(domain_split(corpus.validation, domain))
        rows += [
            {"domain": DOMAINS[domain], "way": way, "ahead": ahead}
            | measured(model, prompts, sampling, ahead, rounds)
            for ahead in AHEAD
        ]
    for (way, _), ahead in itertools.product(WAYS.items(), AHEAD):
        same = [row for row in rows if (row["way"], row["ahead"]) == (way, ahead)]
        kept = {
            key: round(statistics.mean(row[key] for row in same), 3)
            for key in ("acceptance", "tokens a pass", "× ordinary decoding")
        }
        rows.append({"domain": "mean", "way": way, "ahead": ahead} | kept)
    report(
        "speculation",
        "python -m tests.benchmarks.run speculation",
        rows,
        prompts=PROMPTS,
        prompt_tokens=PROMPT,
        written_tokens=WRITTEN,
        rounds=rounds,
    )


def beginnings(split: Split) -> list[list[int]]:
    """Return the first tokens of the first documents that are long enough."""
    tokens = split.tokens.tolist()
    starts = [0, *(place + 1 for place, token in enumerate(tokens) if token == 0)]
    whole = (tokens[start : start + PROMPT] for start in starts)
    return list(
        itertools.islice((one for one in whole if len(one) == PROMPT and all(one)), PROMPTS)
    )


def measured(
    model: Transformer, prompts: list[list[int]], sampling: Sampling, ahead: int, rounds: int
) -> dict:
    """Return acceptance, tokens per pass, and speed relative to ordinary decoding."""

    def ordinary() -> list[list[int]]:
        return [complete(model, [p], WRITTEN, sampling=sampling, seed=0)[0].tokens for p in prompts]

    def speculative() -> list:
        return [
            speculate(model, p, WRITTEN, ahead=ahead, sampling=sampling, seed=0) for p in prompts
        ]

    seconds = alternate({"ordinary": ordinary, "speculative": speculative}, rounds, warm_up=1)
    found = speculative()
    told = Speculation([one for _, own in found for one in own.rounds])
    pairs = zip(seconds["ordinary"], seconds["speculative"], strict=True)
    row = {
        "acceptance": round(told.acceptance, 3),
        "tokens a pass": round(told.tokens_per_pass, 3),
        "× ordinary decoding": round(statistics.median(a / b for a, b in pairs), 3),
    }
    if sampling.temperature == 0:
        row["same tokens"] = [one.tokens for one, _ in found] == ordinary()
    return row
