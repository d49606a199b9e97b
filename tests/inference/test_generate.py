"""Generation matches full forward passes, works for any prompt, and stops where it must."""

import pytest
import torch

from mini_moe import generate
from mini_moe.inference import Sampling, complete, stream
from mini_moe.routing import intervene
from mini_moe.text.tokenizer import train_bpe
from tests.helpers import small_model, without_shape_hook


@pytest.fixture(scope="module")
def bytewise():
    """A model with a byte-level tokenizer and a larger vocabulary than the tokenizer's."""
    tokenizer = train_bpe(["the cat sat on the mat, the cat sat"], vocab_size=270)
    model = small_model(vocab_size=300)
    model.tokenizer = tokenizer
    return model


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"q_lora_rank": 8, "n_mtp_layers": 1}, {"n_layers": 1}])
def test_greedy_text_matches_full_passes(changes):
    model = small_model(**changes)
    ids = [5, 17, 40]
    for token in generate(model, ids, max_new_tokens=25, temperature=0.0):
        assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
    assert len(ids) == 28


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [{"off": [(1, 0), (2, 3)]}, {"shared_off": [1]}, {"top_k": 1}, {"temperature": 3.0}]
    + [{"bias": {2: [0.0, 5.0] + [0.0] * 6}}],
)
def test_interventions_affect_generated_text(changes):
    model, ids = small_model(), [5, 17, 40]
    with intervene(model, **changes) as changed:
        for token in generate(changed, ids, max_new_tokens=12, temperature=0.0):
            assert token == int(changed(torch.tensor([ids]))[0, -1].argmax())
            ids.append(token)


def test_the_same_seed_gives_the_same_text_and_another_does_not():
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
def test_generation_ends_at_max_seq_len(prompt_length, written):
    assert len(generate(small_model(), [1] * prompt_length, max_new_tokens=500)) == written


@pytest.mark.parametrize("too_long", [65, 66, 300])
def test_a_prompt_longer_than_max_seq_len_is_refused(too_long):
    with pytest.raises(ValueError, match=f"prompt: at most max_seq_len=64 .* got {too_long}"):
        generate(small_model(), [1] * too_long)


def test_zero_new_tokens_give_an_empty_answer(bytewise):
    assert generate(bytewise, [1, 2], max_new_tokens=0) == []
    assert generate(bytewise, "the", max_new_tokens=0) == ""


@pytest.mark.parametrize(
    "prompt", ["the", "\x00\n\r\t", "héß — 你好", "👩‍👩‍👧 🏳️‍🌈", "\u202e\ufeff\U0010ffff"]
)
def test_prompts_of_any_characters_are_continued(bytewise, prompt):
    written = generate(bytewise, prompt, max_new_tokens=12, seed=0, temperature=2.0, top_p=1.0)
    assert isinstance(written, str) and written


def test_text_never_contains_ids_that_the_tokenizer_lacks(bytewise):
    with torch.no_grad():
        wanted = bytewise.lm_head.weight.clone()
        bytewise.lm_head.weight[270:] *= 100  # far likelier, or far less likely, than all others
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
    ("arguments", "message"),
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
        ({"prompt": [1], "temperature": float("inf")}, "temperature=inf"),
        ({"prompt": [1], "top_k": 0}, "top_k=0"),
        ({"prompt": [1], "top_k": 2.5}, "top_k=2.5"),
        ({"prompt": [1], "min_p": 1.5}, "min_p=1.5"),
        ({"prompt": [1], "repetition_penalty": 0.0}, "repetition_penalty=0.0"),
        ({"prompt": [1], "max_new_tokens": -1}, "max_new_tokens=-1"),
        ({"prompt": [1], "max_new_tokens": 2.0}, "max_new_tokens=2.0"),
        ({"prompt": [1], "stop": ""}, "stop: non-empty strings"),
        ({"prompt": [1], "stop": ["a", 3]}, "got 3"),
        ({"prompt": [[1], []]}, "empty prompt"),
        ({"prompt": [[1], [300]]}, "vocab_size=300"),
        ({"prompt": ["a", "b"], "seed": [1, 2, 3]}, "one seed, or 2, one per prompt"),
    ],
)
def test_mistakes_are_named(bytewise, arguments, message):
    with without_shape_hook(), pytest.raises(ValueError, match=message):
        generate(bytewise, **arguments)


def test_text_needs_a_tokenizer():
    with pytest.raises(ValueError, match="no tokenizer"):
        generate(small_model(), "hello")


PROMPTS = [[3, 4, 5, 6, 7, 8], [9], [10, 11, 12], [13, 14]]
WAYS = [
    {"temperature": 0.0},
    {"temperature": 0.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("settings", WAYS)
def test_several_prompts_give_what_each_gives_alone(settings):
    model = small_model()
    together = generate(model, PROMPTS, max_new_tokens=40, seed=5, **settings)
    alone = [
        generate(model, prompt, max_new_tokens=40, seed=5 + index, **settings)
        for index, prompt in enumerate(PROMPTS)
    ]
    assert together == alone
    own = generate(model, PROMPTS[1:3], max_new_tokens=40, seed=[6, 7], **settings)
    assert own == alone[1:3]


def test_sequences_that_end_early_do_not_affect_the_others(bytewise):
    alone = [generate(bytewise, p, max_new_tokens=40, temperature=0.0) for p in PROMPTS]
    stops = {alone[1][4], alone[2][9]}
    expected = [
        tokens[: next((i for i, t in enumerate(tokens) if t in stops), 40)] for tokens in alone
    ]
    assert len({len(tokens) for tokens in expected}) > 1
    together = generate(bytewise, PROMPTS, max_new_tokens=40, temperature=0.0, stop_token=stops)
    assert together == expected


def test_a_sequence_at_the_end_of_the_context_does_not_affect_the_others():
    model = small_model()
    written = complete(model, [[1] * 60, [2] * 30], 20, sampling=Sampling(temperature=0.0))
    assert [len(one.tokens) for one in written] == [5, 20]
    assert [one.ended for one in written] == ["context", "length"]
    assert written[1].tokens == generate(model, [2] * 30, max_new_tokens=20, temperature=0.0)


def test_several_texts_give_several_texts(bytewise):
    texts = generate(bytewise, ["the cat", "on"], max_new_tokens=8, seed=0)
    assert texts == [
        generate(bytewise, "the cat", max_new_tokens=8, seed=0),
        generate(bytewise, "on", max_new_tokens=8, seed=1),
    ]


@torch.no_grad()
def test_log_probabilities_are_those_of_the_model_alone():
    model = small_model()
    settings = Sampling(temperature=2.0, top_k=5, repetition_penalty=1.5)
    one = complete(model, [[3, 4]], 9, sampling=settings, seed=1, log_probabilities=True)[0]
    whole = model(torch.tensor([[3, 4, *one.tokens]])).log_softmax(dim=-1)[0]
    expected = [whole[1 + place, token].item() for place, token in enumerate(one.tokens)]
    assert one.log_probabilities == pytest.approx(expected, abs=1e-4)
    assert complete(model, [[3, 4]], 9, sampling=settings, seed=1)[0].log_probabilities == []


def test_a_stream_is_the_whole_text_in_pieces(bytewise):
    for seed in range(5):
        pieces = list(stream(bytewise, "the cat", 30, seed=seed, log_probabilities=True))
        whole = complete(bytewise, ["the cat"], 30, seed=seed, log_probabilities=True)[0]
        assert "".join(piece.text for piece in pieces) == whole.text
        written = [piece for piece in pieces if piece.token is not None]
        assert [piece.token for piece in written] == whole.tokens
        assert [piece.log_probability for piece in written] == whole.log_probabilities


def test_a_stream_checks_its_arguments_before_the_first_piece(bytewise):
    with pytest.raises(ValueError, match="empty prompt"):
        stream(bytewise, "")


def test_a_stream_computes_one_token_at_a_time_and_can_be_abandoned(monkeypatch):
    model, passes = small_model(), []
    head = model.lm_head.weight
    from mini_moe.inference import Decoder

    logits = Decoder.logits
    monkeypatch.setattr(Decoder, "logits", lambda *a: passes.append(1) or logits(*a))
    pieces = stream(model, [3], 50, sampling=Sampling(temperature=0.0))
    first = [next(pieces).token for _ in range(3)]
    assert len(passes) == 3
    pieces.close()
    assert generate(model, [3], 50, temperature=0.0)[:3] == first
    assert model.lm_head.weight is head and head.requires_grad


def test_a_text_ends_before_a_stop_string_even_across_token_boundaries(bytewise):
    whole = generate(bytewise, "the cat", 40, seed=3, temperature=1.5, top_p=1.0)
    for start in range(2, len(whole) - 4, 5):
        stop = whole[start : start + 4]
        written = complete(
            bytewise, ["the cat"], 40, seed=3, stop=stop,
            sampling=Sampling(temperature=1.5, top_p=1.0),
        )[0]  # fmt: skip
        assert written.text == whole[: whole.index(stop)] and written.ended == "stop string"
        pieces = stream(
            bytewise, "the cat", 40, seed=3, stop=[stop, "\x01never"],
            sampling=Sampling(temperature=1.5, top_p=1.0),
        )  # fmt: skip
        assert "".join(piece.text for piece in pieces) == written.text


def test_ids_end_with_the_tokens_that_spell_the_stop_string(bytewise):
    ids = generate(bytewise, [5, 6], 40, seed=3, temperature=1.5, stop="never written")
    stop = bytewise.tokenizer.decode(ids[10:12])
    written = generate(bytewise, [5, 6], 40, seed=3, temperature=1.5, stop=stop)
    assert written == ids[: len(written)] and stop in bytewise.tokenizer.decode(written)


def test_the_reason_a_text_ended_is_reported(bytewise):
    ids = generate(bytewise, [3], 5, temperature=0.0)
    greedy = Sampling(temperature=0.0)

    def why(**settings):
        return complete(bytewise, [[3]], sampling=greedy, **settings)[0].ended

    assert why(max_new_tokens=0) == why(max_new_tokens=5) == "length"
    assert why(max_new_tokens=5, stop_token=ids[0]) == "stop token"
    assert why(max_new_tokens=500) == "context"
    assert complete(bytewise, [], sampling=greedy) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(value, temperature):
    model = small_model()
    model.norm.weight.data[3] = value
    with pytest.raises(ValueError, match="logits: a finite maximum expected"):
        generate(model, [3], temperature=temperature)


def test_token_ids_may_come_from_numpy_or_torch():
    model = small_model()
    expected = generate(model, [3, 4], 5, temperature=0.0)
    ids = torch.tensor([3, 4])
    with without_shape_hook():
        assert generate(model, ids, 5, temperature=0.0) == expected
        assert generate(model, ids.numpy(), 5, temperature=0.0) == expected
        assert generate(model, ids[None], 5, temperature=0.0) == [expected]
