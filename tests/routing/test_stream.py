"""Streaming gives the same traces as one call, in memory that does not grow with the corpus."""

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch

from mini_moe.routing import expert_load, stream_routing, trace_routing
from tests.helpers import relative_error, small_model, without_shape_hook
from tests.routing.foreign_models import foreign_model

TOKENS = torch.randint(61, (83,), generator=torch.Generator().manual_seed(2))
SIZES = {"seq_len": 8, "batch_tokens": 20}  # two sequences per batch; three tokens are left over


@pytest.mark.parametrize("build", [small_model, lambda: foreign_model("deepseek-v3")])
def test_stream_equals_its_sequences_traced_at_once(build):
    model = build()
    traces = list(stream_routing(model, TOKENS, **SIZES))
    assert [len(trace.tokens) for trace in traces] == [16] * 5 + [3]
    for n, trace in enumerate(traces):
        assert trace.logits is None
        batch = TOKENS[16 * n : 16 * n + 16].view(-1, 8) if n < 5 else TOKENS[None, 80:]
        expected = trace_routing(model, batch)
        for name in ("scores", "choice_scores", "expert_ids", "gates", "predicted"):
            assert torch.equal(getattr(trace, name), getattr(expected, name)), name


def test_every_token_appears_once_with_its_label_and_its_successor():
    labels = torch.arange(83) % 7
    traces = list(stream_routing(small_model(), TOKENS, labels=labels, **SIZES))
    assert torch.equal(torch.cat([t.tokens for t in traces]), TOKENS)
    assert torch.equal(torch.cat([t.labels for t in traces]), labels)
    assert torch.equal(torch.cat([t.text_ids for t in traces]), torch.arange(83) // 8)
    targets = torch.cat([t.targets for t in traces])
    assert torch.equal(targets[:-1], TOKENS[1:]) and targets[-1] == -1
    losses = torch.cat([t.losses for t in traces])
    assert losses.isnan().nonzero().tolist() == [[82]]


def test_losses_of_a_stream_are_those_of_the_logits():
    model = small_model()
    [trace] = stream_routing(model, TOKENS[:17].numpy(), seq_len=17, batch_tokens=17)
    logits = trace_routing(model, TOKENS[:17]).logits
    expected = torch.nn.functional.cross_entropy(logits[:-1], TOKENS[1:17], reduction="none")
    assert relative_error(trace.losses[:-1], expected) < 1e-6


def test_counts_over_a_stream_are_the_counts_of_the_whole():
    model = small_model()
    parts = [t.expert_ids for t in stream_routing(model, TOKENS, **SIZES)]
    sequences = [part.tolist() for part in TOKENS.split(8)]
    whole = trace_routing(model, sequences).expert_ids
    assert torch.equal(expert_load(torch.cat(parts, dim=1), 8), expert_load(whole, 8))


def test_a_corpus_is_read_from_disk_piece_by_piece(tmp_path):
    np.save(tmp_path / "tokens.npy", TOKENS.numpy().astype(np.uint16))
    on_disk = np.load(tmp_path / "tokens.npy", mmap_mode="r")
    labels = np.zeros(83, dtype=np.uint8)
    traces = stream_routing(small_model(), on_disk, labels=labels, label_names=("code",), **SIZES)
    first = next(traces)
    assert torch.equal(first.tokens, TOKENS[:16]) and first.label_names == ("code",)


@pytest.mark.parametrize("n_tokens", [1, 8, 16, 17])
def test_any_length_is_covered(n_tokens):
    traces = list(stream_routing(small_model(), TOKENS[:n_tokens].tolist(), **SIZES))
    assert sum(len(trace.pieces) for trace in traces) == n_tokens


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokens": []}, r"tokens: \[n_tokens\], not empty, expected; got \[0\]"),
        ({"tokens": TOKENS.view(1, -1)}, r"got \[1, 83\]"),
        ({"tokens": [1.5, 2.0]}, "tokens: integers expected, got 1.5"),
        ({"labels": [1, 2]}, r"labels: one for each of 83 tokens expected, got \[2\]"),
        ({"labels": ["a"] * 83}, "labels: integers expected, got 'a'"),
        ({"seq_len": 8.0}, "seq_len=8.0 must be an integer"),
        ({"batch_tokens": "16"}, "batch_tokens='16' must be an integer"),
        ({"label_names": "ab"}, "label_names='ab' must be a list of names"),
        ({"seq_len": 0}, "seq_len: 1 to max_seq_len=64 expected, got 0"),
        ({"seq_len": 65}, "got 65"),
        ({"batch_tokens": 7}, "batch_tokens: at least seq_len=8 expected, got 7"),
    ],
)
def test_bad_streams_are_refused_before_the_first_trace(changes, named):
    arguments = {"tokens": TOKENS} | SIZES | changes
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        stream_routing(small_model(), **arguments)


def test_a_token_that_is_not_an_integer_is_refused_once_its_batch_is_read():
    with (
        without_shape_hook(),
        pytest.raises(ValueError, match="tokens: integers expected, got float"),
    ):
        list(stream_routing(small_model(), [1, 2, 2.5, 3], **SIZES))


def test_ids_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"vocab_size=61\) expected, got 0 to 61"):
        list(stream_routing(small_model(), [0] * 20 + [61], **SIZES))


def test_a_dense_model_cannot_be_streamed():
    with pytest.raises(ValueError, match="only dense layers"):
        stream_routing(small_model(n_dense_layers=3), TOKENS, **SIZES)


PROGRAM = """
import resource, numpy, torch
from mini_moe import Transformer
from mini_moe.routing import stream_routing
from tests.helpers import small_config
torch.set_num_threads(1)
model = Transformer(small_config(vocab_size=4096)).eval()
tokens = numpy.zeros(200_000, dtype=numpy.uint16)
tokens[:] = numpy.arange(200_000) % 4093
seen = 0
for trace in stream_routing(model, tokens, labels=tokens % 6, seq_len=64, batch_tokens=2048):
    seen += len(trace.tokens)
    if seen in (20_480, 200_000):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_corpus():
    """Peak memory after 200,000 tokens is at most 16 MiB above the peak after 20,480.

    Keeping the scores, gates and ids would take 62 MiB, keeping the logits 3 GiB.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == 2, done.stderr
    assert all(late - early < 16 * 1024 for early, late in pairwise(peaks)), peaks
