import pytest

from mini_moe.inference.speculative import Round, Speculation
from mini_moe.text import default_tokenizer
from mini_moe.views.inference import RoundStepper, coloured_rounds


@pytest.fixture
def tokenizer():
    return default_tokenizer()


@pytest.fixture
def told(tokenizer):
    ids = tokenizer.encode("Anna saw a dog and a cat")
    return Speculation([Round(ids[:2], 2, ids[2]), Round(ids[3:5], 1, ids[5])])


def test_every_token_shows_its_outcome(told, tokenizer):
    page = coloured_rounds(told, tokenizer).html
    assert page.count('title="proposed and accepted"') == 3
    assert page.count('title="proposed and rejected"') == 1
    assert page.count('title="written by the model"') == 2
    assert page.count("line-through") == 1


def test_odd_steps_show_what_is_only_proposed(told, tokenizer):
    shown = coloured_rounds(told, tokenizer, step=3)
    assert shown.html.count('title="proposed"') == 2
    assert shown.text.endswith("2 of 2 proposals accepted. Now 2 more are proposed.")


def test_the_end_shows_tokens_per_pass(told, tokenizer):
    text = coloured_rounds(told, tokenizer).text
    assert text == "After 2 of 2 passes: 5 tokens, 3 of 4 proposals accepted. 2.50 tokens per pass."


def test_prompt_and_first_token_come_before(told, tokenizer):
    page = coloured_rounds(told, tokenizer, before=[5, 6], first=7, step=0).html
    assert page.count('title="prompt"') == 2 and page.count('title="written by the model"') == 1


@pytest.mark.parametrize("step", [-1, 5])
def test_a_step_that_does_not_exist_is_refused(told, tokenizer, step):
    with pytest.raises(ValueError, match="0 to 4 expected"):
        coloured_rounds(told, tokenizer, step=step)


def test_the_slider_walks_through_the_passes(told, tokenizer):
    assert repr(RoundStepper(told, tokenizer)).startswith("After 2 of 2 passes")
    stepper = RoundStepper(told, tokenizer, step=1)
    assert "Now 2 more are proposed" in repr(stepper)
    stepper.slider.value = 4
    assert "2.50 tokens per pass" in stepper.words.value and stepper.error.value == ""
    assert stepper._repr_mimebundle_()["text/html"] == stepper.still().html
