"""Generation writes what the full forward pass says, from any prompt, and stops where it must."""

import pytest
import torch

from mini_moe import generate
from mini_moe.inference import sample_token
from mini_moe.text.tokenizer import train_bpe
from tests.helpers import small_model


@pytest.fixture(scope="module")
def bytewise():
    """A model whose tokenizer knows every byte, with entries beyond the tokenizer's."""
    tokenizer = train_bpe(["the cat sat on the mat, the cat sat"], vocab_size=270)
    model = small_model(vocab_size=300)
    model.tokenizer = tokenizer
    return model


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 8, "n_mtp_layers": 1}, {"n_layers": 1}])
def test_greedy_text_is_that_of_full_passes(changes):
    model = small_model(**changes)
    ids = [5, 17, 40]
    for token in generate(model, ids, max_new_tokens=25, temperature=0.0):
        assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
    assert len(ids) == 28


def test_the_same_seed_writes_the_same_and_another_does_not():
    model = small_model()
    torch.manual_seed(1)
    first = generate(model, [3], seed=7, max_new_tokens=20)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert generate(model, [3], seed=7, max_new_tokens=20) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert generate(model, [3], seed=8, max_new_tokens=20) != first


def test_without_a_seed_the_global_state_decides():
    model = small_model()
    torch.manual_seed(1)
    first = generate(model, [3], max_new_tokens=20)
    torch.manual_seed(1)
    assert generate(model, [3], max_new_tokens=20) == first
    assert generate(model, [3], max_new_tokens=20) != first


def test_a_stop_token_ends_the_text_and_is_not_part_of_it():
    model = small_model()
    whole = generate(model, [3], max_new_tokens=30, temperature=0.0)
    stop = whole[10]
    expected = whole[: whole.index(stop)]
    assert generate(model, [3], max_new_tokens=30, temperature=0.0, stop_token=stop) == expected


@pytest.mark.parametrize(("prompt_length", "written"), [(1, 64), (60, 5), (63, 2), (64, 1)])
def test_writing_ends_where_the_model_ends(prompt_length, written):
    assert len(generate(small_model(), [1] * prompt_length, max_new_tokens=500)) == written


@pytest.mark.parametrize("too_long", [65, 66, 300])
def test_a_prompt_longer_than_the_model_is_refused(too_long):
    with pytest.raises(ValueError, match=f"prompt: at most max_seq_len=64 .* got {too_long}"):
        generate(small_model(), [1] * too_long)


def test_no_new_tokens_is_an_empty_answer(bytewise):
    assert generate(bytewise, [1, 2], max_new_tokens=0) == []
    assert generate(bytewise, "the", max_new_tokens=0) == ""


@pytest.mark.parametrize(
    "prompt", ["the", "\x00\n\r\t", "héß — 你好", "👩‍👩‍👧 🏳️‍🌈", "\u202e\ufeff\U0010ffff"]
)
def test_prompts_of_any_characters_are_continued(bytewise, prompt):
    written = generate(bytewise, prompt, max_new_tokens=12, seed=0, temperature=2.0, top_p=1.0)
    assert isinstance(written, str) and written


def test_text_never_holds_ids_that_the_tokenizer_lacks(bytewise):
    with torch.no_grad():
        wanted = bytewise.lm_head.weight.clone()
        bytewise.lm_head.weight[270:] *= 100  # far likelier, or far less, than all others
    try:
        ids = generate(bytewise, [5], max_new_tokens=20, temperature=0.0)
        text = generate(bytewise, "the cat", max_new_tokens=20, temperature=0.0)
    finally:
        bytewise.lm_head.weight.data.copy_(wanted)
    assert max(ids) >= 270 and isinstance(text, str)


def test_prompt_ids_are_not_changed_and_answers_are_plain_numbers():
    model, ids = small_model(), [3, 4, 5]
    written = generate(model, ids, max_new_tokens=4, temperature=0.0)
    assert ids == [3, 4, 5] and all(type(token) is int for token in written)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": ""}, "empty prompt"),
        ({"prompt": []}, "empty prompt"),
        ({"prompt": [300]}, "vocab_size=300"),
        ({"prompt": [-1]}, "got -1"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": [1], "temperature": -0.1}, "temperature=-0.1"),
        ({"prompt": [1], "temperature": float("nan")}, "temperature=nan"),
        ({"prompt": [1], "top_p": 0.0}, "top_p=0.0"),
        ({"prompt": [1], "top_p": 1.5}, "top_p=1.5"),
        ({"prompt": [1], "top_p": float("nan")}, "top_p=nan"),
    ],
)
def test_mistakes_are_named(bytewise, arguments, said):
    with pytest.raises(ValueError, match=said):
        generate(bytewise, **arguments)


def test_text_needs_a_tokenizer():
    with pytest.raises(ValueError, match="no tokenizer"):
        generate(small_model(), "hello")


def drawn(logits, n=4000, **options):
    """Shares of the tokens drawn n times from the same logits."""
    settings = {"temperature": 1.0, "top_p": 1.0} | options
    generator = torch.Generator().manual_seed(0)
    tokens = sample_token(logits.expand(n, -1), generator=generator, **settings)
    return torch.bincount(tokens.flatten(), minlength=logits.shape[-1]) / n


PROBABILITIES = torch.tensor([[0.1, 0.5, 0.05, 0.3, 0.05]])


def test_samples_follow_the_softmax():
    assert (drawn(PROBABILITIES.log()) - PROBABILITIES[0]).abs().max() < 0.03


def test_temperature_sharpens_and_flattens():
    squared = PROBABILITIES[0] ** 2 / (PROBABILITIES**2).sum()
    assert (drawn(PROBABILITIES.log(), temperature=0.5) - squared).abs().max() < 0.03
    assert (drawn(PROBABILITIES.log(), temperature=1e6) - 0.2).abs().max() < 0.03


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-6, [1]), (0.5, [1]), (0.51, [1, 3]), (0.79, [1, 3]), (0.89, [0, 1, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_it(top_p, kept):
    shares = drawn(PROBABILITIES.log(), top_p=top_p)
    assert shares.nonzero().flatten().tolist() == kept
    expected = PROBABILITIES[0, kept] / PROBABILITIES[0, kept].sum()
    assert (shares[kept] - expected).abs().max() < 0.03


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6])
def test_cold_sampling_takes_the_best_of_each_row(temperature):
    logits = torch.randn(6, 50)
    tokens = sample_token(logits, temperature, 0.9)
    assert tokens.shape == (6, 1) and torch.equal(tokens[:, 0], logits.argmax(dim=-1))


@pytest.mark.parametrize("batch", [1, 5])
def test_one_token_is_drawn_for_each_row(batch):
    certain = torch.full((batch, 9), -1e9)
    for row in range(batch):
        certain[row, row] = 0
    tokens = sample_token(certain.bfloat16(), 1.0, 0.95)
    assert tokens.flatten().tolist() == list(range(batch)) and tokens.dtype == torch.int64
