"""Train a model to find facts in a text, first in short texts, then in longer ones."""

from mini_moe.training.context.extend import extend, stretched
from mini_moe.training.context.recall import Phase, train_recall

__all__ = ["Phase", "extend", "stretched", "train_recall"]
