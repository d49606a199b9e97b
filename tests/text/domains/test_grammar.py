"""German and English word forms, compared with forms written out by hand."""

import pytest

from mini_moe.text.domains.grammar import (
    CASES,
    Noun,
    Person,
    Verbs,
    article,
    english_verb,
    german_verb,
)
from mini_moe.text.domains.stories import verbs

MIA, TOM = Person("Mia", "f"), Person("Tom", "m")
NARRATOR = Person("Mia", "f", first_person=True)
BALL = Noun("ball", "Ball", "m", adjective=("red", "rot"), owner=MIA)
LAMP = Noun("lantern", "Laterne", "f", adjective=("old", "alt"), owner=TOM)
BOOK = Noun("book", "Buch", "n", genitive="Buches", adjective=("old", "alt"), owner=NARRATOR)
RAVEN = Noun("raven", "Rabe", "m", weak=True, adjective=("shy", "scheu"))
BEAR = Noun("bear", "Bär", "m", weak=True)
FARMER = Noun("farmer", "Bauer", "m", "m", weak=True, genitive="Bauern")


@pytest.mark.parametrize(
    ("noun", "forms"),
    [
        (BALL, "der rote Ball|des roten Balls|dem roten Ball|den roten Ball"),
        (LAMP, "die alte Laterne|der alten Laterne|der alten Laterne|die alte Laterne"),
        (BOOK, "das alte Buch|des alten Buches|dem alten Buch|das alte Buch"),
        (RAVEN, "der scheue Rabe|des scheuen Raben|dem scheuen Raben|den scheuen Raben"),
    ],
)
def test_definite_forms_in_four_cases(noun, forms):
    assert "|".join(noun.form(f"{case}+", "de") for case in CASES) == forms


@pytest.mark.parametrize(
    ("noun", "forms"),
    [
        (BALL, "ein roter Ball|eines roten Balls|einem roten Ball|einen roten Ball"),
        (LAMP, "eine alte Laterne|einer alten Laterne|einer alten Laterne|eine alte Laterne"),
        (BOOK, "ein altes Buch|eines alten Buches|einem alten Buch|ein altes Buch"),
    ],
)
def test_indefinite_forms_in_four_cases(noun, forms):
    keys = ("ein+", "eines+", "einem+", "einen+")
    assert "|".join(noun.form(key, "de") for key in keys) == forms


@pytest.mark.parametrize(
    ("noun", "key", "form"),
    [
        (BALL, "hseinen", "ihren Ball"),
        (LAMP, "hsein", "seine Laterne"),
        (BOOK, "hseinem", "meinem Buch"),
        (BALL, "meinen", "meinen Ball"),
        (LAMP, "deinen", "deine Laterne"),
        (BOOK, "kein", "kein Buch"),
        (LAMP, "diesen", "diese Laterne"),
        (BALL, "dieser", "dieser Ball"),
        (BOOK, "dieser", "dieses Buch"),
        (BALL, "~den", "den"),
        (LAMP, "~dem", "der"),
        (BEAR, "den", "den Bären"),
        (FARMER, "des", "des Bauern"),
        (BALL, "noun", "Ball"),
        (LAMP, "ihm", "ihr"),
        (BOOK, "ihn", "es"),
        (LAMP, "sein", "ihr"),
    ],
)
def test_other_german_forms(noun, key, form):
    assert noun.form(key, "de") == form


@pytest.mark.parametrize(
    ("noun", "key", "form"),
    [
        (BALL, "the", "the ball"),
        (BALL, "a+", "a red ball"),
        (LAMP, "a+", "an old lantern"),
        (BALL, "hhis", "her ball"),
        (LAMP, "hhis+", "his old lantern"),
        (BOOK, "hhis", "my book"),
        (FARMER, "he", "he"),
        (RAVEN, "him", "it"),
        (BALL, "noun+", "red ball"),
    ],
)
def test_english_forms(noun, key, form):
    assert noun.form(key, "en") == form


def test_articles_follow_the_first_letter():
    assert [article(word) for word in ("apple", "Owl", "kite", "user")] == ["an", "an", "a", "an"]


@pytest.mark.parametrize(
    ("person", "language", "forms"),
    [
        (MIA, "en", {"": "Mia", "obj": "Mia", "s": "Mia's", "he": "she", "his": "her"}),
        (TOM, "de", {"": "Tom", "dat": "Tom", "er": "er", "ihn": "ihn", "sein": "sein"}),
        (TOM, "de", {"sich": "sich", "sichd": "sich", "name": "Tom"}),
        (NARRATOR, "en", {"": "I", "obj": "me", "s": "my", "him": "me", "name": "Mia"}),
        (NARRATOR, "de", {"": "ich", "acc": "mich", "dat": "mir", "sich": "mich", "sichd": "mir"}),
    ],
)
def test_persons_and_the_narrator(person, language, forms):
    assert {key: person.form(key, language) for key in forms} == forms


@pytest.mark.parametrize(
    ("verb", "present", "past", "narrated", "plural"),
    [
        ("machen", "macht", "machte", "mache", "machten"),
        ("geben", "gibt", "gab", "gebe", "gaben"),
        ("warten", "wartet", "wartete", "warte", "warteten"),
        ("öffnen", "öffnet", "öffnete", "öffne", "öffneten"),
        ("zeichnen", "zeichnet", "zeichnete", "zeichne", "zeichneten"),
        ("wohnen", "wohnt", "wohnte", "wohne", "wohnten"),
        ("klingeln", "klingelt", "klingelte", "klingle", "klingelten"),
        ("wandern", "wandert", "wanderte", "wandere", "wanderten"),
        ("knien", "kniet", "kniete", "knie", "knieten"),
        ("sein", "ist", "war", "bin", "waren"),
        ("haben", "hat", "hatte", "habe", "hatten"),
        ("werden", "wird", "wurde", "werde", "wurden"),
        ("können", "kann", "konnte", "kann", "konnten"),
        ("wissen", "weiß", "wusste", "weiß", "wussten"),
        ("tun", "tut", "tat", "tue", "taten"),
        ("laufen", "läuft", "lief", "laufe", "liefen"),
        ("sitzen", "sitzt", "saß", "sitze", "saßen"),
    ],
)  # fmt: skip
def test_german_verbs(verb, present, past, narrated, plural):
    known = verbs().german[verb]
    assert german_verb(verb, known, "he", False) == present
    assert german_verb(verb, known, "he", True) == past
    assert german_verb(verb, known, "I", False) == narrated
    assert german_verb(verb, known, "they", True) == plural
    assert german_verb(verb, known, "they", False) == ("sind" if verb == "sein" else verb)


@pytest.mark.parametrize(
    ("verb", "present", "past"),
    [
        ("ask", "asks", "asked"),
        ("carry", "carries", "carried"),
        ("play", "plays", "played"),
        ("push", "pushes", "pushed"),
        ("smile", "smiles", "smiled"),
        ("go", "goes", "went"),
        ("have", "has", "had"),
        ("can", "can", "could"),
        ("hug", "hugs", "hugged"),
    ],
)
def test_english_verbs(verb, present, past):
    known = verbs().english[verb]
    assert english_verb(verb, known, "he", False) == present
    assert english_verb(verb, known, "I", False) == verb
    assert english_verb(verb, known, "they", True) == past


def test_to_be_is_itself():
    forms = [
        english_verb("be", [], who, past) for past in (False, True) for who in ("I", "he", "they")
    ]
    assert forms == ["am", "is", "are", "was", "was", "were"]


def test_unknown_verbs_are_an_error_not_a_guess():
    with pytest.raises(ValueError, match="verbs.json, got 'googeln'"):
        Verbs({}, {}).form("googeln", "he", past=True, language="de")
