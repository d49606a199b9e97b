"""Chips send their items to the browser and render statically without one."""

from mini_moe.views.stage.chips import Chips, chip


def test_still_chips_show_text_labels_and_the_selected_one():
    chips = Chips()
    items = [chip("<b>", "3", "token 0", "#FFFFFF", "#000000", end=True)]
    items.append(chip("10", "off", "expert 10", "#FFFFFF", "#000000", off=True))
    chips.show(items, 1, "a <name>")
    still = chips.still()
    assert "&lt;b&gt;" in still and "a &lt;name&gt;" in still and "<b>" not in still
    assert still.count("outline") == 1 and still.count("line-through") == 1
    assert still.count("<br>") == 1


def test_everything_shown_goes_in_one_message(monkeypatch):
    chips, sent = Chips(), []
    monkeypatch.setattr(chips, "send_state", lambda key=None: sent.append(set(key)))
    chips.show([chip("a", "1", "t", "#FFFFFF", "#000000")], 0, "tokens")
    assert len(sent) == 1 and {"items", "name"} <= set(sent[0])


def test_the_browser_never_interprets_text_as_markup():
    code = Chips._esm if isinstance(Chips._esm, str) else str(Chips._esm)
    assert "innerHTML" not in code and "textContent" in code
