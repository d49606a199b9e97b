"""Exercises that check themselves: `check`, `hint`, `solution`, and `reveal` for predictions."""

from mini_moe.teaching.desk import check, heading, hint, reveal, solution

__all__ = ["check", "heading", "hint", "reveal", "solution"]
