"""Inflected words: nouns with articles and adjectives, persons, verbs.

The `form(key)` of each class returns the word form that a plot's template names. German keys are
the masculine articles and pronouns, whose forms tell the four cases apart: `der des dem den`.
"""

from dataclasses import dataclass

# German declension. Columns: masculine, feminine, neuter. Rows: nominative, genitive, dative,
# accusative, named by the masculine definite article.
CASES = ("der", "des", "dem", "den")
GENDERS = ("m", "f", "n")
DEFINITE = (
    ("der", "die", "das"),
    ("des", "der", "des"),
    ("dem", "der", "dem"),
    ("den", "die", "das"),
)
ENDINGS = (("", "e", ""), ("es", "er", "es"), ("em", "er", "em"), ("en", "e", ""))  # after "ein"
DIESER = (("er", "e", "es"), ("es", "er", "es"), ("em", "er", "em"), ("en", "e", "es"))
AFTER_DER = (("e", "e", "e"), ("en", "en", "en"), ("en", "en", "en"), ("en", "e", "e"))
AFTER_EIN = (("er", "e", "es"), ("en", "en", "en"), ("en", "en", "en"), ("en", "e", "es"))
PRONOUNS = {  # personal pronouns by gender: er (nominative), ihm (dative), ihn (accusative)
    "er": {"m": "er", "f": "sie", "n": "es"},
    "ihm": {"m": "ihm", "f": "ihr", "n": "ihm"},
    "ihn": {"m": "ihn", "f": "sie", "n": "es"},
    "sein": {"m": "sein", "f": "ihr", "n": "sein"},  # stem; the template adds the ending
}
ENGLISH_PRONOUNS = {
    "he": {"m": "he", "f": "she", "n": "it"},
    "him": {"m": "him", "f": "her", "n": "it"},
    "his": {"m": "his", "f": "her", "n": "its"},
    "self": {"m": "himself", "f": "herself", "n": "itself"},
}
FIRST_PERSON = {  # the narrator who says "I"
    "": "I", "obj": "me", "s": "my", "he": "I", "him": "me", "his": "my", "self": "myself",
}  # fmt: skip
ERSTE_PERSON = {
    "": "ich", "acc": "mich", "dat": "mir", "er": "ich", "ihm": "mir", "ihn": "mich",
    "sein": "mein", "sich": "mich", "sichd": "mir",
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """A named character, or the narrator: "I" in every form but `name`."""

    name: str
    gender: str  # m or f
    first_person: bool = False

    def form(self, key: str, language: str) -> str:
        """`{h}` name or "I", `{h.he} {h.him} {h.his}`, German `{h.acc} {h.dat} {h.er} {h.sich}`."""
        if key == "name":
            return self.name
        if self.first_person:
            return (FIRST_PERSON if language == "en" else ERSTE_PERSON)[key]
        if key in ("", "obj", "acc", "dat"):
            return self.name
        if key in ("sich", "sichd"):
            return "sich"
        if key == "s":
            return f"{self.name}'s"
        return (ENGLISH_PRONOUNS if language == "en" else PRONOUNS)[key][self.gender]


@dataclass(frozen=True)
class Noun:
    """A noun in both languages, optionally with an adjective or owned by the hero."""

    english: str
    german: str
    gender: str  # of the German noun: m, f, n
    sex: str = "n"  # of the thing or being it names, for English pronouns: m, f, n
    weak: bool = False  # German n-declension: der Bär, den Bären
    genitive: str = ""  # German genitive if it is not noun + "s" (or the weak form)
    adjective: tuple[str, str] = ("", "")  # English, German stem
    owner: Person | None = None  # for {x.hhis}: "her book", {x.hsein}: "ihr Buch"

    def form(self, key: str, language: str) -> str:
        """`{t.the} {t.a} {t.noun}`, `{t.der} {t.einem} {t.meinen}`; `+` adds the adjective.

        The hero's own: `{t.hhis}` "her ball", `{t.hseinen}` "ihren Ball" (or "my", "meinen").
        """
        adjective, key = key.endswith("+"), key.rstrip("+")
        return (self._english if language == "en" else self._german)(key, adjective)

    def _english(self, key: str, with_adjective: bool) -> str:
        if key in ENGLISH_PRONOUNS:
            return ENGLISH_PRONOUNS[key][self.sex]
        words = f"{self.adjective[0]} {self.english}" if with_adjective else self.english
        if key == "noun":
            return words
        if key == "a":
            return f"{article(words)} {words}"
        return f"{self.owner.form('his', 'en') if key == 'hhis' else {'the': 'the'}[key]} {words}"

    def _german(self, key: str, with_adjective: bool) -> str:
        if key in PRONOUNS:
            return PRONOUNS[key][self.gender]
        column = GENDERS.index(self.gender)
        if key.startswith("~"):  # the relative pronoun: "der Ball, den …"
            return DEFINITE[CASES.index(key[1:])][column]
        if key == "noun":
            return self.german
        if key in CASES:
            row = CASES.index(key)
            determiner, endings = DEFINITE[row][column], AFTER_DER
        elif key.startswith("dies"):
            row = [ending[0] for ending in DIESER].index(key[4:])
            determiner, endings = "dies" + DIESER[row][column], AFTER_DER
        else:
            stem = next(s for s in ("hsein", "kein", "mein", "dein", "ein") if key.startswith(s))
            row = [ending[0] for ending in ENDINGS].index(key[len(stem) :])
            word = self.owner.form("sein", "de") if stem == "hsein" else stem
            determiner, endings = word + ENDINGS[row][column], AFTER_EIN
        words = [determiner, self.inflected(CASES[row])]
        if with_adjective:
            words.insert(1, self.adjective[1] + endings[row][column])
        return " ".join(words)

    def inflected(self, case: str) -> str:
        """Inflect the German noun: weak nouns take -(e)n, masculine and neuter genitives -s."""
        if self.weak and case != "der":
            return self.genitive or self.german + ("n" if self.german.endswith("e") else "en")
        if case == "des" and self.gender != "f":
            return self.genitive or self.german + "s"
        return self.german


def article(words: str) -> str:
    """Return "an" before a vowel, else "a" (no word here has an unusual first sound)."""
    return "an" if words[0].lower() in "aeiou" else "a"


@dataclass(frozen=True)
class Verbs:
    """Finite forms in the narrative's tense; an unknown verb is an error, not a guess."""

    english: dict[str, list[str]]  # infinitive: [] or [third person present, past]
    german: dict[str, list[str]]  # infinitive: [] or [third person present, past singular]

    def form(self, verb: str, subject: str, *, past: bool, language: str) -> str:
        """Conjugate for `subject`: "he" (third person), "I" (first person), "they" (any plural)."""
        known = self.english if language == "en" else self.german
        if verb not in known:
            raise ValueError(f"verb: expected one listed in data/stories/verbs.json, got {verb!r}")
        conjugate = english_verb if language == "en" else german_verb
        return conjugate(verb, known[verb], subject, past)


def english_verb(verb: str, irregular: list[str], subject: str, past: bool) -> str:
    """Add third-person -s or past -ed, spelt correctly; `irregular` gives both forms if needed."""
    if verb == "be":
        forms = {"I": ("am", "was"), "he": ("is", "was"), "they": ("are", "were")}
        return forms[subject][past]
    ends_in_consonant_y = verb.endswith("y") and verb[-2] not in "aeiou"
    if past:
        if irregular:
            return irregular[1]
        return (
            verb + "d"
            if verb[-1] == "e"
            else verb[:-1] + "ied"
            if ends_in_consonant_y
            else verb + "ed"
        )
    if subject != "he":
        return verb
    if irregular:
        return irregular[0]
    if ends_in_consonant_y:
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def german_verb(verb: str, irregular: list[str], subject: str, past: bool) -> str:
    """Conjugate in Präsens or Präteritum; `irregular` is [third person present, past singular]."""
    if verb == "sein":
        forms = {"I": ("bin", "war"), "he": ("ist", "war"), "they": ("sind", "waren")}
        return forms[subject][past]
    stem = verb.removesuffix("n").removesuffix("e") if verb.endswith("en") else verb[:-1]
    before = stem[-2:-1]
    hard = stem[-1] in "td" or (stem[-1] in "nm" and before not in "aeiouäöülrhnm")
    hard = hard or stem.endswith("chn")  # zeichnen, but not wohnen
    link = "e" if hard else ""
    if past:
        single = irregular[1] if irregular else f"{stem}{link}te"
        return single if subject != "they" else single + ("n" if single.endswith("e") else "en")
    if subject == "they":
        return verb
    third = irregular[0] if irregular else f"{stem}{link}t"
    if subject == "he":
        return third
    if not third.endswith("t") and verb != "werden":  # können, müssen, wollen, sollen, wissen
        return third
    return stem.removesuffix("el") + "le" if stem.endswith("el") else stem + "e"
