from dataclasses import replace

import pytest

from mini_moe.experiments.needle import needle_example
from mini_moe.text import load_corpus
from mini_moe.views.long_context import haystack


@pytest.fixture(scope="module")
def example():
    return needle_example(load_corpus(), 512, 0.5, seed=3, distractors=3)


def test_needle_others_and_question_are_marked_once(example):
    shown = haystack(example).html
    for sentence in (example.needle, *example.distractors):
        assert shown.count(f"{sentence}</b>") == 1
    assert shown.count('">▶ ') == 2  # in the legend, and in the text
    assert shown.count('">▷ ') == 1 + len(example.distractors)
    assert shown.count('">? What is the pass key') == 1


def test_markup_in_a_text_stays_text(example):
    shown = haystack(replace(example, text=f"<script>{example.text}")).html
    assert "<script" not in shown and "&lt;script&gt;" in shown


def test_the_summary_says_where_the_needle_is(example):
    said = repr(haystack(example))
    assert said.startswith(f"512 tokens; {example.depth:.0%} of the text comes before")
    assert "3 more say the same" in said


def test_a_single_needle_mentions_no_others():
    alone = haystack(needle_example(load_corpus(), 300, 0.5, distractors=0))
    assert "more say the same" not in repr(alone) and "about other names" not in alone.html
