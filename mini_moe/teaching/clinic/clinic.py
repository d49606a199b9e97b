"""The ward: patients under letters, instruments to order, and the file of each disease."""

import dataclasses
import functools
from typing import Any

from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from mini_moe.teaching.clinic.diseases import DISEASES, NAMES, Disease, Lesion, find
from mini_moe.teaching.clinic.instruments import INSTRUMENTS, Row, measure
from mini_moe.teaching.clinic.patient import STEPS, Patient, train_patient
from mini_moe.teaching.clinic.report import Report, folded_table, readable
from mini_moe.text import Corpus, load_corpus, sample_batch
from mini_moe.views.style import Html

HEALTHY = "healthy"
ORDER = (3, 6, 7, 0, 4, 1, 8, 5, 2, 9)  # which disease lies under A, B, …; the last is X
LETTERS = "ABCDEFGHIX"


class Clinic:
    """Ten patients and their healthy twin: the same model, text and order of batches.

    Patients are trained when they are admitted, or at their first measurement.
    """

    def __init__(self, seed: int = 0, steps: int = STEPS) -> None:
        self.seed, self.steps = seed, steps

    def admit(self, *letters: str) -> None:
        """Train these patients, or all of them and the healthy twin; shows the progress."""
        with tqdm(letters or (HEALTHY, *LETTERS), leave=False) as waiting:
            for letter in waiting:
                waiting.set_postfix(patient=letter)
                self.patient(letter)

    def patient(self, letter: str) -> Patient:
        """A trained patient, or the "healthy" twin.

        Raises: ValueError for a letter that nobody has.
        """
        return admitted(letter, self.seed, self.steps)

    def order(self, letter: str, *instruments: str) -> Report:
        """Readings of a patient beside those of its healthy twin; without names, all of them.

        Raises: ValueError for a letter or an instrument that does not exist.
        """
        names = instruments or tuple(INSTRUMENTS)
        if letter == HEALTHY:
            return Report({letter: self._column(letter, names)})
        return Report(
            {letter: self._column(letter, names), "healthy twin": self._column(HEALTHY, names)}
        )

    def reading(self, letter: str, instrument: str, row: str) -> int | float:
        """One number of one instrument.

        Raises: ValueError for a letter, an instrument or a row that does not exist.
        """
        rows = {r.what: r.value for r in readings(letter, instrument, self.seed, self.steps)}
        if row not in rows:
            raise ValueError(f"row={row!r}: one of {', '.join(rows)} expected")
        return rows[row]

    def treat(self, letter: str, *instruments: str, **repair: Any) -> Report:
        """Train a patient once more with a part replaced, and read it before and after.

        `repair` names the part: config=, training=, route= or balance_loss=, see `Lesion`.
        Raises: ValueError for a letter, a part or an instrument that does not exist.
        """
        parts = {field.name for field in dataclasses.fields(Lesion)}
        if not repair or not set(repair) <= parts:
            raise ValueError(f"repair={sorted(repair)}: some of {sorted(parts)} expected")
        lesion = dataclasses.replace(disease_of(letter).lesion, **repair)
        corpus, names = load_corpus(), instruments or tuple(INSTRUMENTS)
        treated = train_patient(letter, lesion, corpus, self.steps, self.seed)
        after = {name: measure(treated, name, unseen_tokens(corpus)) for name in names}
        return Report(
            {
                letter: self._column(letter, names),
                f"{letter} treated": after,
                "healthy twin": self._column(HEALTHY, names),
            }
        )

    def _column(self, letter: str, names: tuple[str, ...]) -> dict[str, tuple[Row, ...]]:
        return {name: readings(letter, name, self.seed, self.steps) for name in names}

    def decisions(self) -> Html:
        """Who has what, and the readings that say so: the end of the lesson, folded."""
        rows = []
        for letter in LETTERS:
            disease = disease_of(letter)
            for n, sign in enumerate(disease.signs):
                values = [self.reading(x, sign.instrument, sign.row) for x in (letter, HEALTHY)]
                named = ("", "") if n else (letter, disease.name)
                rows.append([*named, sign.instrument, sign.row, *map(readable, values)])
        head = ("patient", "disease", "instrument", "reading", "patient's", "healthy twin's")
        return folded_table("Solution: who has what, and the reading that says so", head, rows)

    def curves(self, smooth: int = 8) -> dict[str, tuple[range, list[float]]]:
        """Each patient's training loss, averaged over the last steps, for `compare_curves`."""
        found = {}
        for letter in (HEALTHY, *LETTERS):
            losses = self.patient(letter).losses
            window = [losses[max(0, n + 1 - smooth) : n + 1] for n in range(len(losses))]
            found[letter] = (range(1, len(losses) + 1), [sum(w) / len(w) for w in window])
        return found

    def __repr__(self) -> str:
        return (
            f"Clinic with patients {', '.join(LETTERS)} and a healthy twin.\n"
            f"Instruments: {', '.join(INSTRUMENTS)}.\nDiseases: {', '.join(NAMES)}."
        )


def disease_of(letter: str) -> Disease:
    """What a patient has: the files of the clinic, not for its students.

    Raises: ValueError for a letter that nobody has.
    """
    if len(letter) != 1 or letter not in LETTERS:
        raise ValueError(f"letter={letter!r}: one of {', '.join(LETTERS)} or healthy expected")
    return DISEASES[ORDER[LETTERS.index(letter)]]


@functools.lru_cache(maxsize=64)
def admitted(letter: str, seed: int = 0, steps: int = STEPS) -> Patient:
    """A patient trained on the course's corpus; asked again, the same one comes back."""
    lesion = Lesion() if letter == HEALTHY else disease_of(letter).lesion
    return train_patient(letter, lesion, load_corpus(), steps, seed)


@functools.lru_cache(maxsize=1024)
def readings(letter: str, instrument: str, seed: int = 0, steps: int = STEPS) -> tuple[Row, ...]:
    """One instrument's rows for a patient, measured on text that training did not see."""
    return tuple(measure(admitted(letter, seed, steps), instrument, unseen_tokens(load_corpus())))


def unseen_tokens(corpus: Corpus) -> Int[Tensor, "batch length"]:
    """Sixteen rows of 65 tokens of the held-out text: the same for everyone."""
    return sample_batch(corpus.validation, batch=16, length=65, seed=0, step=0).tokens


def contradiction(
    letter: str, name: str, seed: int = 0, steps: int = STEPS, numbers: bool = True
) -> str:
    """What speaks against a diagnosis, with or without its numbers: "" where nothing does."""
    for sign in find(name).signs:
        for row in readings(letter, sign.instrument, seed, steps):
            if row.what == sign.row and not sign.shows(row.value):
                if not numbers:
                    return f"the instrument {sign.instrument!r} speaks against it: order it"
                return (
                    f"with {name!r} the instrument {sign.instrument!r} would read “{sign.row}”: "
                    f"{sign.expected}. For patient {letter} it reads {readable(row.value)}"
                )
    return ""
