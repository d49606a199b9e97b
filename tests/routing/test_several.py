"""Several texts in one call give the same numbers as each alone, and tokens keep their labels."""

import numpy as np
import pytest
import torch

from mini_moe.routing import trace_routing
from mini_moe.text import default_tokenizer
from tests.helpers import relative_error, small_model, without_shape_hook
from tests.routing.foreign_models import CASES, foreign_model

TEXTS = [[5, 6, 7, 8, 9], [11], [5, 6, 7, 1, 1, 1, 1, 1, 2, 3], [40, 41, 42]]
MEASURED = ("router_logits", "scores", "choice_scores", "expert_ids", "gates")


def model_of(case):
    return small_model(n_expert_groups=4, top_k_groups=2) if case == "ours" else foreign_model(case)


@pytest.mark.parametrize("case", ["ours", *CASES])
def test_each_text_gives_the_same_bits_as_on_its_own(case):
    model = model_of(case)
    trace = trace_routing(model, TEXTS)
    for n, text in enumerate(TEXTS):
        alone, part = trace_routing(model, text), trace.take(trace.text_ids == n)
        assert part.pieces == alone.pieces and torch.equal(part.tokens, torch.tensor(text))
        for name in (*MEASURED, "logits", "predicted", "targets"):
            assert torch.equal(getattr(part, name), getattr(alone, name)), name
        assert torch.equal(part.losses.nan_to_num(-1), alone.losses.nan_to_num(-1))


@pytest.mark.parametrize("case", ["ours", *CASES])
def test_texts_run_together_are_padded_without_effect(case):
    model = model_of(case)
    apart, together = trace_routing(model, TEXTS), trace_routing(model, TEXTS, batch_size=3)
    assert len(together.tokens) == sum(map(len, TEXTS)) == len(together.pieces)
    for name in ("tokens", "text_ids", "targets", "expert_ids"):
        assert torch.equal(getattr(together, name), getattr(apart, name)), name
    for name in ("scores", "gates", "logits"):
        assert relative_error(getattr(together, name), getattr(apart, name)) < 1e-6, name


def test_targets_are_the_next_tokens_and_losses_their_surprise():
    trace = trace_routing(small_model(), TEXTS)
    expected = [follower for text in TEXTS for follower in [*text[1:], -1]]
    assert trace.targets.tolist() == expected
    assert trace.text_ids.tolist() == [n for n, text in enumerate(TEXTS) for _ in text]
    log_shares = trace.logits.log_softmax(-1)
    for place, target in enumerate(expected):
        loss = trace.losses[place].item()
        if target < 0:
            assert np.isnan(loss)
        else:
            assert loss == pytest.approx(-log_shares[place, target].item(), rel=1e-5)
    assert torch.equal(trace.predicted, trace.logits.argmax(-1))


def test_several_texts_are_encoded_with_the_tokenizer():
    model = small_model(vocab_size=4096)
    model.tokenizer = default_tokenizer()
    trace = trace_routing(model, ["The fox", "der Fuchs läuft"])
    pieces = ["".join(trace.take(trace.text_ids == n).pieces) for n in (0, 1)]
    assert pieces == ["The·fox", "der·Fuchs·läuft"]


def test_logits_can_be_left_out():
    model = small_model()
    trace = trace_routing(model, TEXTS, keep_logits=False)
    assert trace.logits is None
    assert torch.equal(trace.predicted, trace_routing(model, TEXTS).predicted)


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([3, 0, 3, 1], [3, 0, 3, 1], ()),
        (["code", "docs", "code", "math"], [0, 1, 0, 2], ("code", "docs", "math")),
        (torch.tensor([1, 1, 0, 2]), [1, 1, 0, 2], ()),
    ],
)
def test_a_label_of_a_text_applies_to_all_its_tokens(labels, numbers, names):
    trace = trace_routing(small_model(), TEXTS, labels=labels)
    assert trace.label_names == names
    expected = [number for number, text in zip(numbers, TEXTS, strict=True) for _ in text]
    assert trace.labels.tolist() == expected


def test_labels_follow_tokens():
    model = small_model()
    labels = [[10 * n + place for place in range(len(text))] for n, text in enumerate(TEXTS)]
    trace = trace_routing(model, TEXTS, labels=labels, batch_size=4)
    assert trace.labels.tolist() == sum(labels, [])
    one = trace_routing(model, TEXTS[0], labels=np.array([4, 4, 4, 1, 1], dtype=np.uint8))
    assert one.labels.tolist() == [4, 4, 4, 1, 1]
    assert trace_routing(model, TEXTS[0], labels="code").labels.tolist() == [0] * 5
    assert trace_routing(model, TEXTS).labels is None


def test_given_names_number_the_labels():
    names = ("code", "docs", "math")
    by_name = trace_routing(small_model(), TEXTS, labels=["math"] * 4, label_names=names)
    by_number = trace_routing(small_model(), TEXTS, labels=[2] * 4, label_names=names)
    assert by_name.label_names == by_number.label_names == names
    assert by_name.labels.unique().tolist() == by_number.labels.unique().tolist() == [2]


@pytest.mark.parametrize(
    ("labels", "names", "named"),
    [
        ([1, 2, 3], (), "one for each of 4 texts expected, got 3"),
        ("code", (), "one for each of 4 texts expected, got 'code'"),
        ([1, 2, 3, [4, 4]], (), r"labels\[3\]: one for each of 3 tokens expected, got 2"),
        (["a", 1, "a", "a"], (), r"all numbers or all names expected, got \['int', 'str'\]"),
        ([1.5] * 4, (), "float"),
        (["a", "b", "c", "d"], ("a", "b"), r"names among \['a', 'b'\] expected, got \['c', 'd'\]"),
        ([0, 1, 2, 0], ("a", "b"), r"numbers in \[0, 2\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(labels, names, named):
    with pytest.raises(ValueError, match=named):
        trace_routing(small_model(), TEXTS, labels=labels, label_names=names)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ([[1, 2], []], r"text\[1\]: at least one token"),
        ([1, [2]], "got token id and token ids"),
        (["words", [2]], "got str and token ids"),
        ([1, 2.5], "got float and token id"),
        ([None], "got NoneType"),
        ([[1, "a"]], r"text\[0\]: token ids expected"),
        ([[[1]]], r"text\[0\]: ids \[seq\] expected, got \[1, 1\]"),
        ([[1.5]], "integer ids expected, got torch.float32"),
        ([True, False], "got bool"),
        (torch.zeros(2, 2, 2, dtype=torch.long), r"got \[2, 2, 2\]"),
        (torch.zeros(0, 4, dtype=torch.long), "empty text"),
        (torch.tensor([0.5]), "integer ids"),
        ([[True, 2]], r"text\[0\]: integer ids expected, got \[True, 2\]"),
        (b"words", "str, token ids or a list expected, got bytes"),
        ([b"words"], "got bytes"),
        (7, "got int"),
        ([[1], [61]], r"text\[1\]: ids in \[0, vocab_size=61\)"),
        ([[1], [1] * 65], r"text\[1\]: at most max_seq_len=64 tokens expected, got 65"),
        (["a", "b"], "no tokenizer"),
    ],
)
def test_texts_that_cannot_be_traced_are_named(text, named):
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        trace_routing(small_model(), text)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"batch_size": 0}, "batch_size=0 must be an integer of at least 1"),
        ({"batch_size": 2.0}, "batch_size=2.0 must be an integer"),
        ({"batch_size": True}, "batch_size=True must be an integer"),
        ({"keep_logits": "no"}, "keep_logits='no' must be True or False"),
        ({"label_names": "abc"}, "label_names='abc' must be a list of names"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(wrong, named):
    with without_shape_hook(), pytest.raises(ValueError, match=named):
        trace_routing(small_model(), TEXTS, **wrong)


def test_numpy_numbers_are_accepted():
    with without_shape_hook():
        trace = trace_routing(small_model(), TEXTS, batch_size=np.int64(2), keep_logits=np.False_)
    assert trace.logits is None and trace.tokens.tolist() == sum(TEXTS, [])


def test_take_can_repeat_and_reorder_tokens():
    trace = trace_routing(small_model(), TEXTS, labels=["a", "b", "a", "b"])
    taken = trace.take(torch.tensor([2, 0, 2]))
    assert taken.tokens.tolist() == [7, 5, 7] and taken.pieces == ["7", "5", "7"]
    assert torch.equal(taken.gates[:, 1], trace.gates[:, 0])
    assert trace.take(trace.labels == 1).tokens.tolist() == [11, 40, 41, 42]
