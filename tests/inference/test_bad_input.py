"""Bad input is handled the same way, whole or streamed, with or without proposals."""

import numpy as np
import pytest
import torch

from mini_moe import generate, save_hf
from mini_moe.inference import (
    Decoder,
    LatentCache,
    Sampling,
    complete,
    sample_token,
    speculate,
    stream,
)
from mini_moe.inference.__main__ import main
from mini_moe.inference.stops import TextStream
from mini_moe.text.tokenizer import train_bpe
from tests.helpers import random_tokens, small_model, without_shape_hook

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def model():
    """A small model with an MTP module and a tokenizer."""
    made = small_model(vocab_size=270, n_mtp_layers=1)
    made.tokenizer = train_bpe(["the cat sat on the mat, the cat sat"], vocab_size=270)
    return made


def whole(model, prompt, new, **settings):
    return complete(model, [prompt], new, **settings)[0].text


def streamed(model, prompt, new, **settings):
    return "".join(piece.text for piece in stream(model, prompt, new, **settings))


def ahead(model, prompt, new, **settings):
    return speculate(model, prompt, new, ahead=2, **settings)[0].text


def streamed_ahead(model, prompt, new, **settings):
    return streamed(model, prompt, new, ahead=2, **settings)


WAYS = (whole, streamed, ahead, streamed_ahead)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("prompt", "new", "message"),
    [
        ("", 5, "at least one token expected, got an empty prompt"),
        ("the cat " * 40, 5, "at most max_seq_len=64 tokens expected, got"),
        ("the", -1, "max_new_tokens=-1 must be an integer of at least 0"),
    ],
)
def test_prompts_and_lengths_that_do_not_fit_are_named(model, way, prompt, new, message):
    with pytest.raises(ValueError, match=message):
        way(model, prompt, new)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"prompt": 5}, "prompt=5 must be a string or a list of token ids"),
        ({"prompt": None}, "prompt=None must be"),
        ({"prompt": b"the"}, "prompt=b'the' must be"),
        ({"prompt": {3, 4}}, "prompt={3, 4} must be"),
        ({"prompt": [1.5, 2]}, "prompt: token id=1.5 must be an integer"),
        ({"prompt": [True, 2]}, "prompt: token id=True must be an integer"),
        ({"prompt": [1, 270]}, r"prompt: ids in \[0, vocab_size=270\) expected, got 270"),
        ({"new": True}, "max_new_tokens=True must be an integer"),
        ({"new": "5"}, "max_new_tokens='5' must be an integer of at least 0"),
        ({"new": float("nan")}, "max_new_tokens=nan must be"),
        ({"seed": 1.5}, "seed=1.5 must be an integer"),
        ({"seed": "1"}, "seed='1' must be an integer"),
        ({"seed": True}, "seed=True must be an integer"),
        ({"seed": [1.0]}, "seed=1.0 must be an integer in"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be an integer in"),
        ({"stop_token": "a"}, "stop_token='a' must be a token id"),
        ({"stop_token": 1.0}, "stop_token=1.0 must be a token id"),
        ({"stop_token": [1.0]}, "stop_token=1.0 must be an integer"),
        ({"stop_token": 270}, r"stop_token=270 must be an integer in \[0, 269\]"),
        ({"stop": 5}, "stop=5 must be a string, several strings, or None"),
        ({"stop": b"a"}, "stop=b'a' must be"),
        ({"sampling": {"top_k": 1}}, "sampling=.* must be a Sampling or None"),
        ({"log_probabilities": "no"}, "log_probabilities='no' must be True or False"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(model, way, wrong, message):
    given = {"prompt": "the cat", "new": 5} | wrong
    with without_shape_hook(), pytest.raises(ValueError, match=message):
        way(model, given.pop("prompt"), given.pop("new"), **given)


@pytest.mark.parametrize("wrong", [True, 1.0, "1", None, -1])
def test_the_number_of_proposals_must_be_an_integer(model, wrong):
    for call in (stream, speculate):
        with without_shape_hook(), pytest.raises(ValueError, match="ahead=.* must be an integer"):
            call(model, "the", 5, ahead=wrong)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.any_types
def test_numpy_and_torch_numbers_are_accepted(model, way):
    sampling = Sampling(temperature=0.9, top_k=5, top_p=0.5, min_p=0.25, repetition_penalty=1.5)
    given = Sampling(
        temperature=np.float64(0.9),
        top_k=torch.tensor(5),
        top_p=torch.tensor(0.5),
        min_p=np.float32(0.25),
        repetition_penalty=np.float16(1.5),
    )
    assert given == sampling and type(given.top_k) is int
    wanted = way(model, "the cat", 9, sampling=sampling, seed=3, stop_token=[0, 5])
    with without_shape_hook():
        ids = np.array(model.tokenizer.encode("the cat"), dtype=np.uint16)
        found = way(
            model, "the cat", np.int64(9), sampling=given, seed=np.uint64(3),
            stop_token=torch.tensor([0, 5]), log_probabilities=np.True_,
        )  # fmt: skip
        assert generate(model, ids, 4, seed=1) == generate(model, ids.tolist(), 4, seed=1)
        assert generate(model, torch.tensor([[1], [2]]), 2, seed=np.array([4, 5])) == generate(
            model, [[1], [2]], 2, seed=[4, 5]
        )
    assert found == wanted


def test_a_wrong_model_and_a_string_of_prompts_are_refused(model):
    with without_shape_hook():
        with pytest.raises(ValueError, match="model: a mini_moe.Transformer expected, got Linear"):
            generate(torch.nn.Linear(2, 2), "the")
        with pytest.raises(ValueError, match="prompts='the' must be a list of prompts"):
            complete(model, "the")
        with pytest.raises(ValueError, match="temperature='hot' must be a finite number"):
            sample_token(torch.zeros(1, 4), "hot", 0.9)
        with pytest.raises(ValueError, match="top_p=2 must be a finite number in"):
            sample_token(torch.zeros(1, 4), 0, 2)
        with pytest.raises(ValueError, match="stop: non-empty strings"):
            TextStream(model.tokenizer, [""])
        for named in ({"batch": 1.0}, {"batch": True}, {"capacity": 8.0}, {"n_layers": 0}):
            with pytest.raises(ValueError, match=f"{next(iter(named))}=.* must be an integer"):
                LatentCache(model, **named)


@pytest.mark.parametrize("way", WAYS)
def test_zero_new_tokens_give_an_empty_text_and_too_many_end_with_the_context(model, way):
    assert way(model, "the cat", 0, sampling=GREEDY) == ""
    longest = complete(model, ["the cat"], 10_000, sampling=GREEDY)[0]
    assert len(longest.tokens) == 65 - len(model.tokenizer.encode("the cat"))
    assert way(model, "the cat", 10_000, sampling=GREEDY) == longest.text


@pytest.mark.parametrize("temperature", [-0.1, -1e-30, float("nan"), float("inf")])
def test_a_temperature_that_is_negative_or_not_finite_is_named(temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be a finite number"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("way", WAYS)
def test_temperature_zero_needs_no_seed_and_takes_the_likeliest(model, way):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    written = way(model, "the", 20, sampling=GREEDY)
    assert written == way(model, "the", 20, sampling=GREEDY, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_not_numbers_end_the_text_with_an_error(way, temperature):
    broken = small_model(vocab_size=270, n_mtp_layers=1)
    broken.tokenizer = train_bpe(["the cat"], vocab_size=270)
    broken.norm.weight.data[3] = float("nan")
    with pytest.raises(ValueError, match="logits: a finite maximum expected, got nan"):
        way(broken, "the cat", 5, sampling=Sampling(temperature=temperature))


@pytest.mark.parametrize("way", WAYS)
def test_nan_proposals_are_an_error(model, way):
    broken = small_model(vocab_size=270, n_mtp_layers=1)
    broken.tokenizer = model.tokenizer
    expected = way(broken, "the cat", 5, sampling=GREEDY)
    broken.mtp[0].norm.weight.data[3] = float("nan")
    if way in (whole, streamed):  # these don't use the module
        assert way(broken, "the cat", 5, sampling=GREEDY) == expected
        return
    with pytest.raises(ValueError, match="logits: a finite maximum expected, got nan"):
        way(broken, "the cat", 5, sampling=GREEDY)


@pytest.mark.parametrize("way", WAYS)
def test_a_stop_string_may_begin_in_one_token_and_end_in_another(model, way):
    written = complete(model, ["the cat"], 40, sampling=GREEDY)[0]
    ends, length = set(), 0
    for piece in stream(model, "the cat", 40, sampling=GREEDY):
        length += len(piece.text)
        ends.add(length)
    across = [n for n in sorted(ends) if 2 <= n <= length - 2][:8]
    assert across
    for end in across:
        stop = written.text[end - 2 : end + 2]  # two characters on either side of a token boundary
        expected = written.text[: written.text.index(stop)]
        assert way(model, "the cat", 40, sampling=GREEDY, stop=stop) == expected


@pytest.mark.parametrize("proposals", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError("broken")])
def test_an_interrupted_stream_ends_and_leaves_the_model_unchanged(
    model, monkeypatch, proposals, error
):
    expected = streamed(model, "the cat", 20, sampling=GREEDY)
    pieces = stream(model, "the cat", 20, sampling=GREEDY, ahead=proposals)
    begun = next(pieces).text + next(pieces).text
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "read", raising(error))
        with pytest.raises(error if isinstance(error, type) else type(error)):
            list(pieces)
    assert list(pieces) == [] and expected.startswith(begun)
    assert streamed(model, "the cat", 20, sampling=GREEDY, ahead=proposals) == expected


def raising(error):
    """Return a function that raises `error` whatever it is called with."""

    def fail(*_, **__):
        raise error

    return fail


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3])
def test_a_cache_of_the_wrong_batch_size_is_refused_and_unchanged(batch):
    model = small_model()
    decoder, cache = Decoder(model), LatentCache(model, batch=2, capacity=8)
    tokens = random_tokens(model.config, 3, 4)
    decoder.read(tokens[:2], cache)
    held = cache.numbers.clone()
    message = f"a batch of 2 sequences expected, got {batch}"
    with pytest.raises(ValueError, match=message):
        decoder.read(tokens[:batch], cache)
    with pytest.raises(ValueError, match=message):
        model(tokens[:batch], cache=cache)
    assert cache.lengths == [4, 4] and torch.equal(cache.numbers, held)
    with pytest.raises(ValueError, match="a batch of 2 sequences|empty cache expected"):
        decoder.prefill(tokens[:batch].tolist(), cache)


def command(folder, capsys, *arguments):
    """Run the command line; return its exit status, standard output and standard error."""
    status = main(["--checkpoint", str(folder), "--prompt", "the cat", *arguments])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("proposals", ["0", "2"])
def test_the_command_line_does_the_same(model, tmp_path, capsys, proposals):
    save_hf(model, tmp_path)
    settings = ["--temperature", "0", "--ahead", proposals, "--max_new_tokens"]
    assert command(tmp_path, capsys, *settings, "0") == (0, "the cat\n", "")
    longest = complete(model, ["the cat"], 10_000, sampling=GREEDY, stop_token=0)[0].text
    expected = (0, f"the cat{longest}\n", "")
    assert command(tmp_path, capsys, *settings, "10000") == expected


def test_the_command_line_reports_infinite_logits_on_their_own_line(model, tmp_path, capsys):
    broken = small_model(vocab_size=270)
    broken.tokenizer = model.tokenizer
    broken.norm.weight.data[:] = 3e38  # finite, so that it loads; the logits are not
    save_hf(broken, tmp_path)
    status, out, err = command(tmp_path, capsys)
    assert (status, out) == (1, "the cat\n")
    assert err.startswith("error: logits: a finite maximum expected") and err.count("\n") == 1


def test_proposals_of_a_checkpoint_without_an_mtp_module_are_refused(model, tmp_path, capsys):
    plain = small_model(vocab_size=270)
    plain.tokenizer = model.tokenizer
    save_hf(plain, tmp_path)
    status, out, err = command(tmp_path, capsys, "--ahead", "1")
    assert (status, out) == (1, "") and "an MTP module expected" in err
