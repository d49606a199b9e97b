"""The story domains: each plot is told in English and in German, sentence by sentence.

Plots are data (data/stories/plots). A plot is a list of steps; each step offers several sentences,
each as a pair of templates [English, German]. Its `links` tie an early cause to a late consequence.
Templates: `{h}` the hero's name or "I"; `{t.den+}` a noun's form; `{=go h}` a verb in the story's
tense, agreeing with the hero (`h`), several people (`p`) or a third person; `{cause.why}` a linked
sentence; `{^…}` starts with a capital letter.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from mini_moe.folders import data_folder
from mini_moe.text.domains.document import Document, fill, random_for
from mini_moe.text.domains.grammar import Noun, Person, Verbs

LANGUAGES = ("en", "de")
RELATIVES = "(?i:mother|father|brother|mutter|vater|bruder|mayor|queen|doctor|teacher)"
SLOT = re.compile(r"\{(\^?)([^{}]+)\}")
PLURAL = {  # hero and friend together: (third person, with the narrator)
    "en": {"they": ("they", "we"), "them": ("them", "us"), "their": ("their", "our")},
    "de": {"sie": ("sie", "wir"), "ihnen": ("ihnen", "uns"), "sie4": ("sie", "uns"),
           "ihr": ("ihr", "unser"), "sich": ("sich", "uns")},
}  # fmt: skip


@dataclass(frozen=True)
class Cast:
    """The choices fixed once for a telling: who, where, what, when, and which links hold."""

    entities: dict[str, Person | Noun | dict]
    links: dict[str, dict[str, list[str]]]
    past: bool


def story_documents(seed: int, n_bytes: int) -> Iterator[Document]:
    """Yield both tellings of story 0, 1, 2 …; they share an id and so a side of the split."""
    names = sorted(plots())

    def pair(n: int) -> list[Document]:
        name = names[n % len(names)]
        english, german = tell(plots()[name], random_for(seed, "stories", n))
        story = f"stories/{name}/{n}"
        return [Document(story, "stories_en", english), Document(story, "stories_de", german)]

    return fill(pair, n_bytes)


@cache
def plots() -> dict[str, dict]:
    """Load all plots by name (one JSON file each)."""
    folder = data_folder() / "stories" / "plots"
    return {
        path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))
    }


@cache
def vocabulary() -> dict:
    """Load the names, nouns, places, adjectives, openings and endings shared by all plots."""
    return json.loads((data_folder() / "stories" / "vocabulary.json").read_text("utf-8"))


@cache
def verbs() -> Verbs:
    """Load the verbs that templates may conjugate."""
    return Verbs(**json.loads((data_folder() / "stories" / "verbs.json").read_text("utf-8")))


def tell(plot: dict, draw: random.Random) -> tuple[str, str]:
    """Tell one story in English and German: title, opening, the plot's steps, ending."""
    cast = draw_cast(plot, draw)
    first_person = cast.entities["h"].first_person
    shared = vocabulary()
    opening = shared["openings"]["I" if first_person else "he"]["past" if cast.past else "present"]
    paragraphs = [[draw.choice(plot["titles"])], [draw.choice(opening)]]
    if draw.random() < 0.5:
        paragraphs[-1].append(draw.choice(shared["traits"]))
    for step in plot["steps"]:
        if step == "¶":
            paragraphs.append([])
        else:
            paragraphs[-1].append(draw.choice(step))
    if draw.random() < 0.6:
        paragraphs[-1].append(draw.choice(shared["endings"]))
    tellings = []
    for number, language in enumerate(LANGUAGES):
        told = []
        for paragraph in paragraphs:
            sentences = [render(pair[number], cast, language) for pair in paragraph]
            told.append(" ".join(use_pronouns(sentences, cast, language)))
        tellings.append("\n\n".join(told))
    return tuple(tellings)


def draw_cast(plot: dict, draw: random.Random) -> Cast:
    """Choose names, nouns, places, tense and narrator for one telling."""
    shared = vocabulary()
    names = draw.sample([(name, sex) for sex in "fm" for name in shared["names"][sex]], 3)
    hero, friend, third = (Person(*name) for name in names)
    hero = replace(hero, first_person=draw.random() < 0.25)
    entities: dict = {"h": hero, "f": friend, "k": third, "town": draw.choice(shared["towns"])}
    for slot, kind in plot.get("slots", {}).items():
        taken = [noun.english for noun in entities.values() if isinstance(noun, Noun)]
        choices = [e for e in shared[kind] if e.get("english", e.get("noun")) not in taken]
        entry = dict(draw.choice(choices))
        if "german" in entry:
            if adjectives := entry.pop("adjectives", None) or shared["adjectives"].get(kind):
                entry["adjective"] = tuple(draw.choice(adjectives))
            entry = Noun(**entry, owner=hero)
        entities[slot] = entry
    links = {name: draw.choice(choices) for name, choices in plot.get("links", {}).items()}
    return Cast(entities, links, past=draw.random() < 0.7)


def render(template: str, cast: Cast, language: str) -> str:
    """Fill a template, then fix capitals and quotation marks.

    Raises:
        ValueError: the template uses something that its plot's cast lacks.
    """
    text = _fill(template, cast, language)
    text = re.sub(r"(^|[.!?…] |\.[”“] )([a-zäöü])", lambda m: m[1] + m[2].upper(), text)
    return text.translate({ord("“"): '"', ord("”"): '"'}) if language == "en" else text


def use_pronouns(sentences: list[str], cast: Cast, language: str) -> list[str]:
    """Say "she" if a sentence begins with the hero's name and the previous one named only her."""
    hero, others = cast.entities["h"], [RELATIVES]
    if hero.first_person:
        return sentences
    for word, entity in cast.entities.items():
        if isinstance(entity, Person) and word != "h":
            others.append(entity.name)
        elif isinstance(entity, Noun):
            others.append(entity.english if language == "en" else entity.german)
    pronoun = hero.form("he" if language == "en" else "er", language).capitalize()
    told, clear = [], False  # clear: a pronoun can only mean the hero
    for sentence in sentences:
        clear = clear and re.match(rf"{hero.name} (?!and |und )", sentence) is not None
        text = pronoun + sentence.removeprefix(hero.name) if clear else sentence
        told.append(text)
        clear = hero.name in text and not re.search("|".join(others), text)
    return told


def _fill(template: str, cast: Cast, language: str) -> str:
    def resolve(match: re.Match) -> str:
        try:
            text = _resolve(match[2], cast, language)
        except (KeyError, IndexError, StopIteration, ValueError, TypeError) as error:
            raise ValueError(
                f"template: no {match[0]} in {language} {template!r}: {error}"
            ) from None
        return text[0].upper() + text[1:] if match[1] else text

    return SLOT.sub(resolve, template)


def _resolve(slot: str, cast: Cast, language: str) -> str:
    hero = cast.entities["h"]
    if slot.startswith("="):
        verb, _, subject = slot[1:].partition(" ")
        who = {"": "he", "h": "I" if hero.first_person else "he", "p": "they"}[subject]
        return verbs().form(verb, who, past=cast.past, language=language)
    if slot == "town":
        return cast.entities["town"]
    if slot in PLURAL[language]:
        return PLURAL[language][slot][hero.first_person]
    name, _, key = slot.partition(".")
    if name == "h&f":
        return _together(hero, cast.entities["f"], key, language)
    if name in cast.links:
        return _fill(cast.links[name][key][LANGUAGES.index(language)], cast, language)
    entity = cast.entities[name]
    if isinstance(entity, dict):  # a place: its phrases are written out
        return entity[language][key]
    return entity.form(key, language)


def _together(hero: Person, friend: Person, key: str, language: str) -> str:
    """Return "Anna and Tom", or "Tom and I": a narrator names the other person first."""
    word = "and" if language == "en" else "und"
    pair = (friend, hero) if hero.first_person else (hero, friend)
    return f" {word} ".join(person.form(key, language) for person in pair)
