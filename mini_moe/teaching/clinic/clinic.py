"""The clinic: patients named by letters, instruments to order, and their readings."""

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
ORDER = (3, 6, 7, 0, 4, 1, 8, 5, 2, 9)  # index of the disease of A, B, …; the last is X
LETTERS = "ABCDEFGHIX"


class Clinic:
    """Ten patients and their healthy twin, with the same model, text and order of batches.

    Patients are trained on admission, or at their first measurement.
    """

    def __init__(self, seed: int = 0, steps: int = STEPS) -> None:
        self.seed, self.steps = seed, steps

    def admit(self, *letters: str) -> None:
        """Train these patients, by default all and the healthy twin, and show progress."""
        with tqdm(letters or (HEALTHY, *LETTERS), leave=False) as waiting:
            for letter in waiting:
                waiting.set_postfix(patient=letter)
                self.patient(letter)

    def patient(self, letter: str) -> Patient:
        """Return a trained patient, or the "healthy" twin.

        Raises: ValueError for an unknown letter.
        """
        return admitted(letter, self.seed, self.steps)

    def order(self, letter: str, *instruments: str) -> Report:
        """Return a patient's readings next to its healthy twin's; by default, of all instruments.

        Raises: ValueError for a letter or an instrument that does not exist.
        """
        names = instruments or tuple(INSTRUMENTS)
        if letter == HEALTHY:
            return Report({letter: self._column(letter, names)})
        return Report(
            {letter: self._column(letter, names), "healthy twin": self._column(HEALTHY, names)}
        )

    def reading(self, letter: str, instrument: str, row: str) -> int | float:
        """Return one number from one instrument.

        Raises: ValueError for a letter, an instrument or a row that does not exist.
        """
        rows = {r.what: r.value for r in readings(letter, instrument, self.seed, self.steps)}
        if row not in rows:
            raise ValueError(f"row={row!r}: one of {', '.join(rows)} expected")
        return rows[row]

    def treat(self, letter: str, *instruments: str, **repair: Any) -> Report:
        """Retrain a patient with a part replaced, and report readings before and after.

        `repair` names the part: config=, training=, route= or balance_loss=; see `Lesion`.
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
        """Return each patient's disease and the readings that show it, folded: the lesson's end."""
        rows = []
        for letter in LETTERS:
            disease = disease_of(letter)
            for n, sign in enumerate(disease.signs):
                values = [self.reading(x, sign.instrument, sign.row) for x in (letter, HEALTHY)]
                named = ("", "") if n else (letter, disease.name)
                rows.append([*named, sign.instrument, sign.row, *map(readable, values)])
        head = ("patient", "disease", "instrument", "reading", "patient's", "healthy twin's")
        title = "Solution: each patient's disease, and the readings that show it"
        return folded_table(title, head, rows)

    def curves(self, smooth: int = 8) -> dict[str, tuple[range, list[float]]]:
        """Return each patient's training loss, as a running mean of `smooth` steps."""
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
    """Return a patient's disease: for the clinic's files, not for its students.

    Raises: ValueError for an unknown letter.
    """
    if len(letter) != 1 or letter not in LETTERS:
        raise ValueError(f"letter={letter!r}: one of {', '.join(LETTERS)} or healthy expected")
    return DISEASES[ORDER[LETTERS.index(letter)]]


@functools.lru_cache(maxsize=64)
def admitted(letter: str, seed: int = 0, steps: int = STEPS) -> Patient:
    """Train a patient on the course's corpus; later calls return the same one."""
    lesion = Lesion() if letter == HEALTHY else disease_of(letter).lesion
    return train_patient(letter, lesion, load_corpus(), steps, seed)


@functools.lru_cache(maxsize=1024)
def readings(letter: str, instrument: str, seed: int = 0, steps: int = STEPS) -> tuple[Row, ...]:
    """Return one instrument's rows for a patient, measured on text not seen in training."""
    return tuple(measure(admitted(letter, seed, steps), instrument, unseen_tokens(load_corpus())))


def unseen_tokens(corpus: Corpus) -> Int[Tensor, "batch length"]:
    """Return sixteen rows of 65 tokens of held-out text, the same for all patients."""
    return sample_batch(corpus.validation, batch=16, length=65, seed=0, step=0).tokens


def contradiction(
    letter: str, name: str, seed: int = 0, steps: int = STEPS, numbers: bool = True
) -> str:
    """Return what contradicts a diagnosis, with or without its numbers, or "" if nothing does."""
    for sign in find(name).signs:
        for row in readings(letter, sign.instrument, seed, steps):
            if row.what == sign.row and not sign.shows(row.value):
                if not numbers:
                    return f"the instrument {sign.instrument!r} contradicts that: order it"
                return (
                    f"with {name!r} the instrument {sign.instrument!r} would read “{sign.row}”: "
                    f"{sign.expected}. For patient {letter} it reads {readable(row.value)}"
                )
    return ""
