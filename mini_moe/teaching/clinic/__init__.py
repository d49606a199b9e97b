"""The clinic of notebook 08: models that train well and are ill all the same."""

from mini_moe.teaching.clinic.clinic import Clinic

__all__ = ["Clinic"]
