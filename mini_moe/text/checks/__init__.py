"""Checkers for the domains whose truth is computed: they read a text and work it out anew."""

from mini_moe.text.checks.arithmetic import check_math
from mini_moe.text.checks.tables import answer_question, check_tables

__all__ = ["answer_question", "check_math", "check_tables"]
