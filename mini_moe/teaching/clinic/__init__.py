"""The clinic of notebook 08: models that train well and are sick nevertheless."""

from mini_moe.teaching.clinic.clinic import Clinic

__all__ = ["Clinic"]
