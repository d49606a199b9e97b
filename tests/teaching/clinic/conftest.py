"""Patients for three seeds, trained once for all tests; ten steps show nearly every disease."""

import pytest

from mini_moe.teaching.clinic.clinic import HEALTHY, LETTERS, Clinic, admitted, disease_of

STEPS = 10
SEEDS = (0, 1, 2)


class Ward:
    """Patients by name of disease, and their instrument readings."""

    names = (HEALTHY, *(disease_of(letter).name for letter in LETTERS))
    letters = dict(zip(names, (HEALTHY, *LETTERS), strict=True))

    def patient(self, name, seed=0):
        return admitted(self.letters[name], seed, STEPS)

    def read(self, name, instrument, row, seed=0):
        return Clinic(seed, STEPS).reading(self.letters[name], instrument, row)


@pytest.fixture(scope="session")
def ward():
    """Return all patients and the healthy twin."""
    return Ward()


@pytest.fixture(params=SEEDS)
def seed(request):
    """The seed for the weights and the order of the text."""
    return request.param
