"""Panels describe the moment in words and numbers; any text is shown as text."""

import pytest

from mini_moe.routing import expert_load
from mini_moe.views.explorer import clip_text
from mini_moe.views.stage import panels
from mini_moe.views.stage.state import UNTOUCHED, Prospect, run_moment
from tests.views.conftest import SENTENCE

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
TEXTS = {
    "umlauts": "Die Mäuse hören Flöße, ß!",
    "emoji": "🙂 👩‍👩‍👧 🇩🇪",
    "right to left": "שלום עולם — مرحبا",
    "combining": "e\u0301 o\u0308 Z\u0351\u036b\u0343",
    "code with tabs": "def f(x):\n\treturn x\t# tab",
    "control characters": "\x00\x07\x1b[31m\r\n\x7f\u202e",
    "hostile": HOSTILE,
}


def moment_of(model, text, changes=UNTOUCHED):
    ids, _ = clip_text(model, text)
    return run_moment(model, ids, changes)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_is_shown_and_nothing_of_it_is_markup(model, text):
    moment = moment_of(model, text)
    page = panels.still_page(moment, model, 1, 0, ["summary"])
    assert "<script" not in page and "<img" not in page
    assert not {"\x00", "\x07", "\x1b", "\u202e"} & set(page)
    chips = panels.token_chips(moment.after, 1)
    assert len(chips) == len(moment.after.pieces)
    assert all(chip["text"].strip() for chip in chips)


def test_umlauts_stay_readable(model):
    shown = "".join(chip["text"] for chip in
                    panels.token_chips(moment_of(model, "Mäuse hören").after, 1))  # fmt: skip
    assert shown == "Mäuse·hören"


def test_a_chip_names_its_heaviest_expert_and_all_others(model):
    moment = moment_of(model, SENTENCE)
    gates, ids = moment.after.gates[1], moment.after.expert_ids[1]
    for n, chip in enumerate(panels.token_chips(moment.after, 2)):
        assert chip["label"] == str(int(ids[n][gates[n].argmax()]))
        assert all(f"expert {expert} ×" in chip["title"] for expert in ids[n].tolist())


def test_an_expert_switched_off_is_struck_through_and_says_so(model):
    moment = moment_of(model, SENTENCE, UNTOUCHED.switch((2, 3), True).push((2, 4), 0.1))
    chips = panels.expert_chips(moment, 2)
    assert chips[3]["off"] and chips[3]["label"] == "off" and "switched off" in chips[3]["title"]
    assert chips[4]["label"].startswith("▲") and chips[4]["label"].endswith("%")
    share = float(expert_load(moment.after.expert_ids[1], 16)[0])
    assert chips[0]["label"] == f"{share:.0%}" and not chips[0]["off"]


def test_changes_of_probability_carry_arrow_and_number(model):
    moment = moment_of(model, SENTENCE, UNTOUCHED.switch((2, 3), True))
    rows = [Prospect(1, "a<b", 0.84, 0.02), Prospect(2, "child", 0.05, 0.64)]
    table = panels.next_table(moment, model, 2, rows)
    assert "▼ -82" in table.html and "▲ +59" in table.html
    assert "a&lt;b" in table.html and "a<b" not in table.html
    assert table.text == "“a<b” goes from 84 % to 2 %; now “child” leads with 64 %."


def test_an_untouched_model_is_described_in_words(model):
    moment = moment_of(model, SENTENCE)
    assert "as it was trained" in panels.status_line(moment.changes)
    assert "is the likeliest, with" in panels.next_table(moment, model, -1).text


def test_the_last_step_mixes_and_counts_to_eight(model):
    moment = moment_of(model, SENTENCE)
    table = panels.step_table(moment, model, 2, 3, 8)
    assert "Step 8 of 8" in table.text and "shared" in table.html
    assert table.html.count("<th style") == 1 + 8 + 16 + 1
    assert "Step 1 of 8" in panels.step_table(moment, model, 2, 3, 1).text


def test_tables_hold_every_token_and_every_expert(model):
    tables = panels.picture_tables(moment_of(model, SENTENCE), 1)
    n_tokens = len(model.tokenizer.encode(SENTENCE))
    assert tables.count("<tr>") == (1 + n_tokens) + (1 + 16)
