"""The two shipped needle models: what they find, how they load and how they were trained."""

import json

import pytest
import torch
from transformers import DeepseekV3ForCausalLM

from mini_moe import load_hf
from mini_moe.experiments.needle import needle_example, needle_grid, retrieves, stretched
from mini_moe.inference import Sampling, complete
from mini_moe.text import data_folder, load_corpus
from mini_moe.training.context.__main__ import BASE, LONGER

FOLDERS = {name: data_folder() / "checkpoints" / name for name in ("needle_base", "needle")}
DEPTHS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def base():
    return load_hf(FOLDERS["needle_base"])


@pytest.fixture(scope="module")
def tuned():
    return load_hf(FOLDERS["needle"])


def test_tuned_model_finds_needles_at_eight_times_the_length_but_plain_rope_does_not(base, tuned):
    corpus = load_corpus()
    plain = stretched(base, 1.0, max_seq_len=4096)
    assert needle_grid(base, corpus, [256], DEPTHS, 4).retrieved.mean() >= 0.9
    assert needle_grid(plain, corpus, [2048], DEPTHS, 2).retrieved.mean() <= 0.2
    assert needle_grid(tuned, corpus, [2048], DEPTHS, 2).retrieved.mean() >= 0.8


def test_greedy_decoding_gives_the_answers_that_one_pass_counts(tuned):
    corpus, greedy = load_corpus(), Sampling(temperature=0.0)
    for kind in ("passkey", "fact"):
        examples = [needle_example(corpus, 700, 0.3, seed, kind) for seed in range(3)]
        prompts = [example.tokens.tolist() for example in examples]
        longest = max(len(example.answer) for example in examples)
        written = complete(tuned, prompts, longest, sampling=greedy)
        same = [
            one.tokens[: len(example.answer)] == example.answer
            for one, example in zip(written, examples, strict=True)
        ]
        assert same == retrieves(tuned, examples) and any(same)


def test_they_are_the_same_model_before_and_after_yarn(base, tuned):
    assert stretched(base, 16.0).config == tuned.config
    assert (base.config.yarn_factor, base.config.max_seq_len) == (1, 256)
    yarn = json.loads((FOLDERS["needle"] / "config.json").read_text())["rope_scaling"]
    assert (yarn["rope_type"], yarn["factor"]) == ("yarn", 16)
    assert yarn["original_max_position_embeddings"] == 256


@pytest.mark.parametrize("name", FOLDERS)
@torch.no_grad()
def test_transformers_loads_them_and_gives_the_same_logits(name, base, tuned):
    ours = {"needle_base": base, "needle": tuned}[name]
    theirs = DeepseekV3ForCausalLM.from_pretrained(FOLDERS[name], dtype=torch.float32).eval()
    length = min(600, ours.config.max_seq_len)  # beyond the original length if the model uses YaRN
    tokens = torch.arange(1, 2 * length + 1).view(2, length)
    expected = theirs(tokens).logits
    error = (ours(tokens) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5


def test_together_they_take_less_than_fifteen_megabytes():
    files = [path for folder in FOLDERS.values() for path in folder.iterdir()]
    assert sum(path.stat().st_size for path in files) <= 15_000_000


@pytest.mark.parametrize(("name", "phases"), [("needle_base", BASE), ("needle", LONGER)])
def test_their_logs_match_the_phases_in_the_code(name, phases):
    log = [json.loads(line) for line in (FOLDERS[name] / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == sum(phase.steps for phase in phases)
    assert list(dict.fromkeys(record["seq_len"] for record in log)) == [p.seq_len for p in phases]
    assert "validation" in log[-1]
