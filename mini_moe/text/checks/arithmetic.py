"""Check a sheet of arithmetic line by line, without knowing how it was made.

The checker reads the sheet itself: it evaluates every equation, follows carries and borrows from
column to column, and solves each question from scratch. All it shares with the generator are the
column names and the wording of the word problems.
"""

import ast
import operator
import re
from functools import cache

from mini_moe.text.domains.arithmetic import COLUMNS, word_problems
from mini_moe.text.domains.document import Document

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
ADDING = re.compile(r"(\w+(?: \w+)?): ([\d+* ]+?)(?: = (\d+))?, write (\d+)(?:, carry (\d))?")
TAKING = re.compile(
    r"(\w+(?: \w+)?): (?:([\d -]+) is below 0, )?(?:([\d -]+) = (\d+), )?"
    r"write (\d)(?:, borrow (1))?"
)
ANSWER = re.compile(r"Answer: (-?\d+(?: remainder \d+)?)")
DIVIDING = re.compile(r"(?:bring down (\d): )?(\d+) / (\d+) = (\d+) remainder (\d+)")


def check_math(document: Document | str) -> int:
    """Return how many problems a sheet has, after checking that all are correct.

    Raises:
        ValueError: a step or an answer is wrong; the problem is quoted.
    """
    text = document if isinstance(document, str) else document.text
    problems = text.split("\n\n")
    for problem in problems:
        try:
            right = _problem_is_right(problem.split("\n"))
        except (ValueError, IndexError, SyntaxError, ArithmeticError, RecursionError, MemoryError):
            right = False
        if not right:
            raise ValueError(f"document: expected a right solution, got\n{problem}")
    return len(problems)


def evaluate(expression: str) -> int:
    """Return the value of an expression of whole numbers with + - * and brackets.

    Raises:
        ValueError: the expression contains anything else.
    """

    def value(node: ast.AST) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        raise ValueError(f"expression: expected whole numbers with + - *, got {expression!r}")

    return value(ast.parse(expression.strip(), mode="eval").body)


def _problem_is_right(lines: list[str]) -> bool:
    question, steps, last = lines[0], lines[1:-1], lines[-1]
    (answer,) = _read(ANSWER, last)
    if found := re.fullmatch(r"Compute (.+)\.", question):
        return _computation_is_right(found[1], steps, answer)
    if found := re.fullmatch(r"Which is larger, (\d+) or (\d+)\?", question):
        return _comparison_is_right(found[1], found[2], steps, answer)
    if found := re.fullmatch(r"What comes next: ([\d, ]+)\?", question):
        return _sequence_is_right([int(n) for n in found[1].split(", ")], steps, int(answer))
    return _words_are_right(question, steps, int(answer))


def _computation_is_right(expression: str, steps: list[str], answer: str) -> bool:
    operands = re.fullmatch(r"(\d+) / (\d+)", expression)
    if operands:
        return _division_is_right(operands[1], int(operands[2]), steps, answer)
    result = evaluate(expression)
    if int(answer) != result:
        return False
    if all(step.startswith("= ") for step in steps):
        return steps[-1] == f"= {result}" and all(evaluate(s[2:]) == result for s in steps)
    numbers = [int(n) for n in re.findall(r"\d+", expression)]
    if " - " in expression:
        return _subtraction_is_right(numbers, steps, result)
    if steps[0].startswith(COLUMNS[0] + ":"):
        return _columns_are_right(numbers, "*" in expression, steps, result)
    return len(numbers) == 2 and _products_are_right(*numbers, steps, result)


def _columns_are_right(numbers: list[int], times: bool, steps: list[str], result: int) -> bool:
    """Check addition, or multiplication by one digit: each column's digits, sum, digit, carry."""
    carry, written = 0, ""
    for place, step in enumerate(steps):
        name, terms, total, digit, new_carry = _read(ADDING, step)
        if times:
            expected = f"{_digit(numbers[0], place)} * {numbers[1]}"
        else:
            digits = [_digit(n, place) for n in numbers if place == 0 or n >= 10**place]
            expected = " + ".join(digits)
        expected += f" + {carry}" if carry else ""
        value = evaluate(terms)
        carry = int(new_carry or 0)
        if name != COLUMNS[place] or terms != expected or int(total or value) != value:
            return False
        if value != 10 * carry + int(digit) or (len(digit) > 1 and place != len(steps) - 1):
            return False
        written = digit + written
    return int(written) == result and carry == 0 and 10 ** len(steps) > max(numbers)


def _subtraction_is_right(numbers: list[int], steps: list[str], result: int) -> bool:
    first, second = numbers
    if second > first:
        swap = f"{second} is larger than {first}, so swap: {second} - {first}"
        if steps.pop(0) != swap:
            return False
        first, second, result = second, first, -result
    borrow, written = 0, ""
    for place, step in enumerate(steps):
        name, below, terms, value, digit, new_borrow = _read(TAKING, step)
        top = int(_digit(first, place))
        taken = [_digit(second, place)] if place == 0 or second >= 10**place else []
        taken += [str(borrow)] if borrow else []
        left = top - sum(map(int, taken))
        plain = " - ".join([str(top), *taken])
        lent = " - ".join([str(top + 10), *taken])
        if name != COLUMNS[place] or bool(new_borrow) != (left < 0) or int(digit) != left % 10:
            return False
        if left < 0 and (below != plain or terms != lent):
            return False
        if left >= 0 and (below or terms != (plain if taken else None)):
            return False
        if value is not None and value != digit:
            return False
        borrow, written = int(left < 0), digit + written
    return int(written) == result and borrow == 0


def _products_are_right(number: int, factor: int, steps: list[str], result: int) -> bool:
    """Check long multiplication: the factor split up, one product per part, and their sum."""
    parts = [part for part in (factor % 10, factor // 10 * 10) if part]
    expected = [f"{number} * {part}" for part in parts]
    if len(parts) == 2:
        products = [str(number * part) for part in parts]
        expected = [str(factor), *expected, " + ".join(products)]
    sides = [step.split(" = ") for step in steps]
    if [left for left, _ in sides] != expected:
        return False
    return all(evaluate(left) == evaluate(right) for left, right in sides) and (
        evaluate(sides[-1][1]) == result
    )


def _division_is_right(number: str, divisor: int, steps: list[str], answer: str) -> bool:
    remainder, quotient = 0, ""
    for place, (digit, step) in enumerate(zip(number, steps, strict=True)):
        down, part, by, times, rest = _read(DIVIDING, step)
        if down != (digit if place else None) or int(part) != 10 * remainder + int(digit):
            return False
        if int(by) != divisor or (int(times), int(rest)) != divmod(int(part), divisor):
            return False
        remainder, quotient = int(rest), quotient + times
    return answer == str(int(quotient)) + (f" remainder {remainder}" if remainder else "")


def _comparison_is_right(first: str, second: str, steps: list[str], answer: str) -> bool:
    expected = []
    for place, (one, two) in enumerate(zip(first, second, strict=True)):
        sign = "=" if one == two else "<" if int(one) < int(two) else ">"
        expected.append(f"{COLUMNS[len(first) - 1 - place]}: {one} {sign} {two}")
        if one != two:
            break
    return steps == expected and int(answer) == max(int(first), int(second))


def _sequence_is_right(numbers: list[int], steps: list[str], answer: int) -> bool:
    pairs = zip(numbers, numbers[1:] + [answer], strict=True)
    differences = {b - a for a, b in pairs}
    lefts = [f"{b} - {a}" for a, b in zip(numbers[:3], numbers[1:4], strict=True)]
    step = numbers[1] - numbers[0]
    lefts.append(f"{numbers[3]} {'+' if step > 0 else '-'} {abs(step)}")
    sides = [line.split(" = ") for line in steps]
    return (
        differences == {step}
        and [left for left, _ in sides] == lefts
        and all(evaluate(left) == int(right) for left, right in sides)
    )


def _words_are_right(question: str, steps: list[str], answer: int) -> bool:
    """Find the wording, read its numbers, and work out the steps it requires."""
    for pattern, formulas in _wordings():
        if found := pattern.fullmatch(question):
            numbers = {name: int(n) for name, n in found.groupdict().items() if len(name) == 1}
            for n, (formula, step) in enumerate(zip(formulas, steps, strict=True), 1):
                left, sign, right = (str(numbers.get(w, w)) for w in formula.split())
                quotient, rest = divmod(int(left), int(right)) if sign == "/" else (0, 0)
                value = quotient if sign == "/" else evaluate(f"{left} {sign} {right}")
                if rest or step != f"{left} {sign} {right} = {value}":
                    return False
                numbers[f"s{n}"] = value
            return value == answer
    return False


@cache
def _wordings() -> list[tuple[re.Pattern, list[str]]]:
    """Return a pattern for each word problem; its numbers are single-letter named groups."""
    wordings = []
    for problem in word_problems()["problems"]:
        seen: set[str] = set()

        def group(found: re.Match, seen: set[str] = seen) -> str:
            name = found[1]
            if name in seen:
                return f"(?P={name})"
            seen.add(name)
            return rf"(?P<{name}>\d+)" if len(name) == 1 else rf"(?P<{name}>\w+)"

        escaped = re.escape(problem["question"]).replace(r"\{", "{").replace(r"\}", "}")
        pattern = re.sub(r"\{(\w+)\}", group, escaped)
        wordings.append((re.compile(pattern), problem["steps"]))
    return wordings


def _read(pattern: re.Pattern, line: str) -> tuple[str | None, ...]:
    """Parse a line of known form; raise ValueError for any other line."""
    if found := pattern.fullmatch(line):
        return found.groups()
    raise ValueError(f"line: expected {pattern.pattern}, got {line!r}")


def _digit(number: int, place: int) -> str:
    return str(number // 10**place % 10)
