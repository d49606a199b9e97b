"""Checkers for the domains with computable answers: they read a text and solve it again."""

from mini_moe.text.checks.arithmetic import check_math
from mini_moe.text.checks.tables import answer_question, check_tables

__all__ = ["answer_question", "check_math", "check_tables"]
