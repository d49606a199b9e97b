"""Every sentence of every plot can be told in both languages, tenses and persons."""

import json
import random
import re
from dataclasses import replace

import pytest

from mini_moe.text import data_folder, split_of
from mini_moe.text.domains.grammar import Noun, Person
from mini_moe.text.domains.stories import (
    LANGUAGES,
    SLOT,
    Cast,
    draw_cast,
    plots,
    render,
    story_documents,
    tell,
    use_pronouns,
    verbs,
    vocabulary,
)

STORIES = list(story_documents(0, 300_000))
ENGLISH = [d for d in STORIES if d.domain == "stories_en"]
GERMAN = [d for d in STORIES if d.domain == "stories_de"]
MIA, TOM = Person("Mia", "f"), Person("Tom", "m")


def pairs_of(node):
    """Yield all [English, German] templates of a plot or of the vocabulary."""
    if isinstance(node, list) and len(node) == 2 and all(isinstance(x, str) for x in node):
        yield node
    elif isinstance(node, (list, dict)):
        for child in node.values() if isinstance(node, dict) else node:
            yield from pairs_of(child)


def casts(plot, n=12):
    """Draw casts of both persons and tenses that together use every link."""
    for seed in range(n):
        cast = draw_cast(plot, random.Random(seed))
        links = {name: options[seed % len(options)] for name, options in plot["links"].items()}
        hero = replace(cast.entities["h"], first_person=seed % 2 == 1)
        for word, entity in cast.entities.items():
            if isinstance(entity, Noun):
                cast.entities[word] = replace(entity, owner=hero)
        yield Cast(cast.entities | {"h": hero}, links, past=seed % 4 > 1)


def test_there_are_enough_plots():
    assert len(plots()) >= 20
    assert all(len(plot["links"]) >= 1 for plot in plots().values())


@pytest.mark.parametrize("name", sorted(plots()))
def test_every_sentence_can_be_told(name):
    plot = plots()[name]
    for cast in casts(plot):
        for step in [plot["titles"], *plot["steps"]]:
            for pair in [] if step == "¶" else step:
                assert len(pair) == 2, pair
                for template, language in zip(pair, LANGUAGES, strict=True):
                    told = render(template, cast, language)
                    assert told and not re.search(r"[{}]|  | [,.!?]|\.\.", told), told


@pytest.mark.parametrize("tense", ["past", "present"])
@pytest.mark.parametrize("person", ["he", "I"])
def test_every_opening_and_ending_can_be_told(person, tense):
    shared = vocabulary()
    pairs = shared["openings"][person][tense] + shared["traits"] + shared["endings"]
    for cast in casts(plots()["fog"], 2):
        for pair in pairs:
            for template, language in zip(pair, LANGUAGES, strict=True):
                told = render(template, cast, language)
                assert told[0] in '„“"' or told[0].isupper(), told
                assert "{" not in told


def test_quotation_marks_are_closed():
    for document in ENGLISH:
        assert document.text.count('"') % 2 == 0 and not re.search("[“”„]", document.text)
    for document in GERMAN:
        assert document.text.count("„") == document.text.count("“"), document.text
        assert '"' not in document.text


def test_sentences_begin_with_capitals():
    for document in ENGLISH + GERMAN:
        for paragraph in document.text.split("\n\n"):
            assert not re.match("[a-zäöü]", paragraph), paragraph
            assert not re.search(r"[a-zäöüß][.] [a-zäöü]", paragraph), paragraph


def test_stories_have_a_title_and_at_least_three_paragraphs():
    assert {len(document.text.split("\n\n")) for document in ENGLISH} == {4}
    assert all(250 < document.n_bytes < 2500 for document in STORIES)


def test_both_tellings_share_plot_names_and_side():
    names = [name for sex in "fm" for name in vocabulary()["names"][sex]]
    for english, german in zip(ENGLISH, GERMAN, strict=True):
        assert english.id == german.id and split_of(english.id) == split_of(german.id)
        here = [{n for n in names if re.search(rf"\b{n}\b", d.text)} for d in (english, german)]
        assert here[0] and here[0] == here[1], english.id
        assert english.text.count("\n\n") == german.text.count("\n\n")


def test_all_plots_tenses_and_persons_appear():
    assert {document.id.split("/")[1] for document in ENGLISH} == set(plots())
    texts = [document.text for document in GERMAN]
    assert any(" ich " in text for text in texts)
    assert any(" sagte " in text for text in texts) and any(" sagt " in text for text in texts)


def test_stories_do_not_repeat():
    assert len({document.text for document in ENGLISH}) == len(ENGLISH)


def test_a_story_depends_on_its_seed_alone():
    plot = plots()["race"]
    assert tell(plot, random.Random(4)) == tell(plot, random.Random(4))
    assert tell(plot, random.Random(4)) != tell(plot, random.Random(5))
    again = list(story_documents(0, 20_000))
    assert again == STORIES[: len(again)]


def test_a_cause_has_its_own_consequence():
    """If it was lost through a hole, the hero sews up the hole instead of looking at the clouds."""
    seen = set()
    for document in ENGLISH:
        if document.id.startswith("stories/lost_thing"):
            hole, sewn = "a hole in" in document.text, "sewed" in document.text
            sewn = sewn or re.search(r"\bsews?\b", document.text) is not None
            assert hole == sewn, document.text
            seen.add(hole)
    assert seen == {True, False}


def test_things_in_one_story_differ():
    for document in ENGLISH:
        assert not re.search(r"And so the (.+) became an? (\w+ )?\1\b", document.text)


def test_pronouns_are_used_only_if_they_must_mean_the_hero():
    cast = Cast({"h": MIA, "f": TOM}, {}, past=True)
    told = ["Here lived Mia.", "Mia ran.", "Tom saw Mia.", "Mia fell.", "Mia and Tom sang."]
    assert use_pronouns(told, cast, "en") == [
        "Here lived Mia.", "She ran.", "Tom saw Mia.", "Mia fell.", "Mia and Tom sang.",
    ]  # fmt: skip


def test_a_narrator_needs_no_pronouns():
    hero = replace(MIA, first_person=True)
    told = ["I am Mia.", "Mia is my name."]
    assert use_pronouns(told, Cast({"h": hero}, {}, past=False), "en") == told


def test_the_narrator_names_the_other_first():
    hero = replace(MIA, first_person=True)
    cast = Cast({"h": hero, "f": TOM}, {}, past=True)
    assert render("{h&f} {=go p}.", cast, "en") == "Tom and I went."
    assert render("{h&f} {=gehen p}, und {sie} {=lachen p}.", cast, "de") == (
        "Tom und ich gingen, und wir lachten."
    )


@pytest.mark.parametrize("template", ["{x}", "{h.vocative}", "{=googlen h}", "{cause.why}"])
def test_an_unknown_slot_is_named(template):
    with pytest.raises(ValueError, match="template: no"):
        render(template, Cast({"h": MIA}, {}, past=True), "de")


def test_every_noun_and_verb_form_is_complete():
    for kind in ("things", "animals", "pets", "adults", "foods"):
        for entry in vocabulary()[kind]:
            noun = Noun(**entry)
            assert noun.gender in "mfn" and noun.german[0].isupper(), noun
            assert noun.weak is False or noun.gender == "m", noun
    for table in (verbs().english, verbs().german):
        assert {len(forms) for forms in table.values()} <= {0, 2}


def test_places_have_the_same_phrases_everywhere():
    for kind in ("outdoors", "places"):
        for place in vocabulary()[kind]:
            assert set(place["en"]) == {"in", "to", "from", "the"}, place
            assert set(place["de"]) == {"in", "to", "from", "der"}, place


def test_every_declared_link_is_used():
    for name, plot in plots().items():
        text = json.dumps(plot, ensure_ascii=False)
        used = {match[2].split(".")[0] for match in SLOT.finditer(text)}
        assert set(plot["links"]) <= used, name


def test_material_is_valid_json_in_one_folder():
    assert {path.suffix for path in (data_folder() / "stories").rglob("*.*")} == {".json"}
    assert all(list(pairs_of(plot)) for plot in plots().values())
