"""The `math` domain: arithmetic worked out column by column, every line of it checkable."""

import json
import random
from collections.abc import Iterator
from functools import cache

from mini_moe.folders import data_folder
from mini_moe.text.domains.document import Document, fill, random_for

COLUMNS = ("ones", "tens", "hundreds", "thousands", "ten thousands", "hundred thousands")


def math_documents(seed: int, n_bytes: int) -> Iterator[Document]:
    """Generate sheets of two to five problems, mixing short and long numbers."""

    def sheet(n: int) -> list[Document]:
        draw = random_for(seed, "math", n)
        makers = draw.choices(list(KINDS), weights=list(KINDS.values()), k=draw.randint(2, 5))
        text = "\n\n".join(make(draw) for make in makers)
        return [Document(f"math/{n}", "math", text)]

    return fill(sheet, n_bytes)


def addition(draw: random.Random) -> str:
    """Two or three numbers, added column by column with the carry written out."""
    return work_addition([_number(draw) for _ in range(draw.choice((2, 2, 2, 3)))])


def work_addition(numbers: list[int]) -> str:
    """Add from the ones up; each column's sum gives the digit to write and the carry."""
    lines, carry = [], 0
    n_columns = len(str(max(numbers)))
    for column in range(n_columns):
        terms = [
            number // 10**column % 10 for number in numbers if number >= 10**column or not column
        ]
        terms += [carry] if carry else []
        total = sum(terms)
        last = column == n_columns - 1
        lines.append(f"{COLUMNS[column]}: {_join(terms, '+')}" + _result(total, last, len(terms)))
        carry = total // 10
    return _problem(_join(numbers, "+"), lines, sum(numbers))


def subtraction(draw: random.Random) -> str:
    """A difference with borrowing; if the second number is larger, the answer is negative."""
    return work_subtraction(_number(draw), _number(draw))


def work_subtraction(first: int, second: int) -> str:
    """Subtract from the ones up; a column that would fall below zero borrows ten from the next."""
    if second > first:
        lines = [f"{second} is larger than {first}, so swap: {second} - {first}"]
    else:
        lines = []
    large, small, borrow = max(first, second), min(first, second), 0
    for column in range(len(str(large))):
        terms = [large // 10**column % 10]
        terms += [small // 10**column % 10] if small >= 10**column or not column else []
        terms += [borrow] if borrow else []
        difference = terms[0] - sum(terms[1:])
        line = f"{COLUMNS[column]}: "
        if difference < 0:
            line += f"{_join(terms, '-')} is below 0, {_join([terms[0] + 10, *terms[1:]], '-')}"
            line += f" = {difference + 10}, write {difference + 10}, borrow 1"
        else:
            equation = f"{_join(terms, '-')} = {difference}, " if len(terms) > 1 else ""
            line += f"{equation}write {difference}"
        borrow = int(difference < 0)
        lines.append(line)
    return _problem(f"{first} - {second}", lines, first - second)


def multiplication(draw: random.Random) -> str:
    """Multiply by one digit with carries, or by two digits with partial products."""
    if draw.random() < 0.6:
        return work_short_multiplication(_number(draw), draw.randint(2, 9))
    return work_long_multiplication(draw.randint(11, 999), draw.randint(11, 99))


def work_short_multiplication(number: int, digit: int) -> str:
    """Multiply each column by one digit and add the carry."""
    lines, carry = [], 0
    for column in range(len(str(number))):
        product = number // 10**column % 10 * digit + carry
        term = f"{number // 10**column % 10} * {digit}" + (f" + {carry}" if carry else "")
        last = column == len(str(number)) - 1
        lines.append(f"{COLUMNS[column]}: {term}" + _result(product, last, 2))
        carry = product // 10
    return _problem(f"{number} * {digit}", lines, number * digit)


def work_long_multiplication(number: int, factor: int) -> str:
    """Multiply by the ones and by the tens of the second factor, then add."""
    parts = [factor % 10, factor // 10 * 10]
    lines = [f"{factor} = {parts[1]} + {parts[0]}"] if parts[0] else []
    products = [number * part for part in parts if part]
    lines += [f"{number} * {part} = {number * part}" for part in parts if part]
    if len(products) == 2:
        lines.append(f"{products[0]} + {products[1]} = {sum(products)}")
    return _problem(f"{number} * {factor}", lines, number * factor)


def division(draw: random.Random) -> str:
    """Divide by one digit, long division, with or without a remainder."""
    divisor = draw.randint(2, 9)
    number = draw.randint(10, 9999)
    return work_division(number - number % divisor * draw.randint(0, 1), divisor)


def work_division(number: int, divisor: int) -> str:
    """Bring the digits down one by one; each step's remainder is carried to the next digit."""
    lines, remainder = [], 0
    for place, digit in enumerate(str(number)):
        part = remainder * 10 + int(digit)
        start = f"bring down {digit}: " if place else ""
        remainder = part % divisor
        lines.append(f"{start}{part} / {divisor} = {part // divisor} remainder {remainder}")
    answer = f"{number // divisor}" + (f" remainder {remainder}" if remainder else "")
    return _problem(f"{number} / {divisor}", lines, answer)


def expression(draw: random.Random) -> str:
    """Order of operations: inner or higher-precedence operations first, one per line."""
    a, b, c, d = (draw.randint(2, 20) for _ in range(4))
    chains = (
        [f"{a} + {b} * {c}", f"{a} + {b * c}", a + b * c],
        [f"({a} + {b}) * {c}", f"{a + b} * {c}", (a + b) * c],
        [f"{a} * {b} - {c}", f"{a * b} - {c}", a * b - c],
        [f"{a} * ({b} + {c}) - {d}", f"{a} * {b + c} - {d}", f"{a * (b + c)} - {d}"]
        + [a * (b + c) - d],
        [f"{a} * {b} + {c} * {d}", f"{a * b} + {c} * {d}", f"{a * b} + {c * d}", a * b + c * d],
        [f"{a + b} - {b} + {c}", f"{a} + {c}", a + c],
    )
    chain = draw.choice(chains)
    return _problem(chain[0], [f"= {step}" for step in chain[1:]], chain[-1])


def comparison(draw: random.Random) -> str:
    """Find the larger of two numbers at the first digit that differs."""
    first = draw.randint(100, 9999)
    second = first
    while second == first:
        digits = list(str(first))
        digits[draw.randrange(1, len(digits))] = str(draw.randint(0, 9))
        second = int("".join(digits))
    lines = [f"Which is larger, {first} or {second}?"]
    for column in reversed(range(len(str(first)))):
        one, two = first // 10**column % 10, second // 10**column % 10
        sign = "=" if one == two else "<" if one < two else ">"
        lines.append(f"{COLUMNS[column]}: {one} {sign} {two}")
        if one != two:
            break
    return "\n".join([*lines, f"Answer: {max(first, second)}"])


def sequence(draw: random.Random) -> str:
    """Continue a sequence with a constant difference."""
    step = draw.choice((-1, 1)) * draw.randint(2, 25)
    start = draw.randint(1, 60) + max(0, -4 * step)
    numbers = [start + step * place for place in range(5)]
    lines = [f"What comes next: {', '.join(map(str, numbers[:4]))}?"]
    lines += [f"{b} - {a} = {step}" for a, b in zip(numbers[:3], numbers[1:4], strict=True)]
    last = f"{numbers[3]} + {step}" if step > 0 else f"{numbers[3]} - {-step}"
    return "\n".join([*lines, f"{last} = {numbers[4]}", f"Answer: {numbers[4]}"])


def word_problem(draw: random.Random) -> str:
    """A word problem whose numbers lead to one or two sums."""
    source = word_problems()
    problem = draw.choice(source["problems"])
    words = {kind: draw.sample(values, k=2) for kind, values in source["words"].items()}
    numbers = {name: draw.randint(*limits) for name, limits in problem["numbers"].items()}
    for name, formula in problem.get("derived", {}).items():
        numbers[name] = eval_formula(formula, numbers)  # keeps quotients whole
    fields = {f"{kind}{n}": word for kind, pair in words.items() for n, word in enumerate(pair, 1)}
    lines = [problem["question"].format(**fields, **numbers)]
    for n, formula in enumerate(problem["steps"], 1):
        value = eval_formula(formula, numbers)
        lines.append(f"{_write(formula, numbers)} = {value}")
        numbers[f"s{n}"] = value
    return "\n".join([*lines, f"Answer: {value}"])


@cache
def word_problems() -> dict:
    """Load the questions, their numbers' ranges and the steps to the answer (data/math)."""
    return json.loads((data_folder() / "math" / "word_problems.json").read_text("utf-8"))


def eval_formula(formula: str, numbers: dict[str, int]) -> int:
    """Return the value of a two-operand formula such as "a + b"; a quotient must be whole."""
    left, sign, right = formula.split()
    a, b = (numbers[word] if word in numbers else int(word) for word in (left, right))
    if sign == "/" and a % b:
        raise ValueError(f"formula {formula!r}: {a} / {b} is not whole")
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]


def _write(formula: str, numbers: dict[str, int]) -> str:
    return " ".join(str(numbers.get(word, word)) for word in formula.split())


def _number(draw: random.Random) -> int:
    """Draw a number of up to four digits (at least one), each length equally likely."""
    return draw.randint(2, 10 ** draw.choice((1, 2, 2, 3, 3, 3, 4, 4)) - 1)


def _join(numbers: list[int], sign: str) -> str:
    return f" {sign} ".join(map(str, numbers))


def _result(total: int, last: bool, n_terms: int) -> str:
    """Format a column's result: the equation's right side, the digit to write, the carry."""
    equation = f" = {total}" if n_terms > 1 else ""
    if last or total < 10:
        return f"{equation}, write {total}"
    return f"{equation}, write {total % 10}, carry {total // 10}"


def _problem(question: str, lines: list[str], answer: int | str) -> str:
    return "\n".join([f"Compute {question}.", *lines, f"Answer: {answer}"])


KINDS = {  # kind of problem: how often it is drawn
    addition: 5,
    subtraction: 4,
    multiplication: 4,
    division: 3,
    expression: 2,
    comparison: 1,
    sequence: 1,
    word_problem: 4,
}
