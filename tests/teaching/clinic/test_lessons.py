"""The difference between sick and healthy code is shown correctly."""

from mini_moe.teaching.clinic.difference import changed_lines, statements

STEP = 0.25


def test_a_changed_line_is_one_minus_and_one_plus():
    assert changed_lines(["a", "b", "c"], ["a", "B", "c"]) == ["-b", "+B"]
    assert changed_lines(["a"], ["a"]) == []


def test_docstrings_and_comments_are_not_statements():
    def documented(x):
        """Twice.

        Over several lines.
        """
        # why
        y = x + x
        return y

    assert statements(documented) == ["y = x + x", "return y"]


def test_a_constant_is_shown_as_its_number():
    def moved(bias):
        return bias + STEP

    assert statements(moved) == ["return bias + 0.25"]
