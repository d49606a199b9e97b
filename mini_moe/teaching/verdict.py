"""Judge one answer: untouched, correct, or what is wrong. A student's exception never escapes."""

import ast
import inspect
import linecache
import re
import textwrap
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from mini_moe.checker import NoCompiler
from mini_moe.teaching.compare import Mistake, as_choice, as_number
from mini_moe.teaching.exercise import Exercise


class Verdict(NamedTuple):
    """The outcome of a check: "correct", "wrong", "not attempted" or "not checked", and why."""

    state: str
    reason: str = ""


class NotAttempted(Exception):
    """Raised if an answer turns out to be a stub only when it is called."""


def judge(exercise: Exercise, student: Any) -> Verdict:
    """Run the probes until one fails and return the verdict."""
    if student is None or student is ...:
        return Verdict("not attempted")
    if exercise.is_function:
        if (left := placeholder_line(student)) is not None:
            return Verdict("not attempted", left)
        if not callable(student):
            return Verdict("wrong", f"a function is expected here, got {student!r:.60}")
    if exercise.kind == "kernel" and isinstance(student, str):
        if code_alone(student) == code_alone(exercise.given):
            return Verdict("not attempted", as_it_stands(exercise))
    try:
        exercise.judge(readable(exercise, student))
    except NoCompiler as missing:
        return Verdict("not checked", str(missing))
    except NotAttempted:
        return Verdict("not attempted")
    except Mistake as mistake:
        return Verdict("wrong", str(mistake))
    except Exception as error:  # a probe could not handle the result
        reason = f"your result could not be checked ({type(error).__name__}: {first_line(error)})"
        return Verdict("wrong", reason)
    return Verdict("correct")


def as_it_stands(exercise: Exercise) -> str:
    """Say what is wrong with the kernel that a lesson starts from; "" if it can't be checked."""
    try:
        exercise.judge(exercise.given.strip("\n"))
    except Mistake as mistake:
        return str(mistake)
    except NoCompiler:
        return ""
    return ""


def readable(exercise: Exercise, student: Any) -> Any:
    """Return the answer in the form that probes expect.

    Raises: Mistake for an answer of the wrong kind, or one that is not among the choices.
    """
    if exercise.is_function:
        return guarded(student)
    if exercise.kind == "kernel":
        if not isinstance(student, str):
            raise Mistake(f"a string of CUDA source is expected here, got {student!r:.60}")
        return student.strip("\n")
    return as_choice(student, exercise.choices) if exercise.choices else as_number(student)


def code_alone(source: str) -> str:
    """Strip comments and whitespace from CUDA source."""
    return re.sub(r"//.*|/\*(?s:.*?)\*/|\s", "", source)


def guarded(student: Callable) -> Callable:
    """Wrap the student's function so that its exceptions become a Mistake naming the line."""

    def call(*arguments: Any, **named: Any) -> Any:
        try:
            result = student(*arguments, **named)
        except NotImplementedError:
            raise NotAttempted from None
        except RecursionError:
            raise Mistake("your function calls itself endlessly") from None
        except Exception as error:
            raise Mistake(error_sentence(error, student)) from None
        parts = result if isinstance(result, tuple) else (result,)
        if any(part is ... for part in parts) or (result is None and not source_tree(student)):
            raise NotAttempted
        if result is None:
            raise Mistake("your function returns None; is a `return` missing?")
        return result

    return call


def placeholder_line(student: Any) -> str | None:
    """Return None without placeholders, "" for a bare stub, else a sentence naming the first."""
    body = source_tree(student)
    if body is None:
        return None
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        if isinstance(body[0].value.value, str):
            body = body[1:]
    placeholders = [statement for statement in body if is_placeholder(statement)]
    if len(placeholders) == len(body):
        return ""
    left = [s for s in placeholders if not isinstance(s, ast.Pass) and not returns_none(s)]
    if not left:
        return None
    return f"line {left[0].lineno} of your function is still `{ast.unparse(left[0])}`"


def is_placeholder(statement: ast.stmt) -> bool:
    """True for `...`, `pass`, `name = ...`, `return`, `return ...`, `raise NotImplementedError`."""
    match statement:
        case ast.Pass():
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError")):
            return True
        case ast.Raise(exc=ast.Call(func=ast.Name(id="NotImplementedError"))):
            return True
        case ast.Return(value=ast.Tuple(elts=parts)):
            return any(is_dots(part) for part in parts)
        case ast.Return():
            return is_dots(statement.value) or returns_none(statement)
        case ast.Expr(value=value) | ast.Assign(value=value) | ast.AnnAssign(value=value):
            return is_dots(value)
    return False


def is_dots(node: ast.AST | None) -> bool:
    """True for a literal `...`."""
    return isinstance(node, ast.Constant) and node.value is ...


def returns_none(statement: ast.stmt) -> bool:
    """True for `return` and `return None`."""
    if not isinstance(statement, ast.Return):
        return False
    value = statement.value
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def source_tree(student: Any) -> list[ast.stmt] | None:
    """Return the statements of a function's body; None if there is no readable source."""
    try:
        source = textwrap.dedent(inspect.getsource(student))
        statement = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return statement.body if isinstance(statement, ast.FunctionDef) else None


def error_sentence(error: Exception, student: Any) -> str:
    """ "line 2 of your cell, `x.sofmax(-1)`, raised AttributeError: ..." """
    code = getattr(inspect.unwrap(student), "__code__", None)
    raised = f"raised {type(error).__name__}: {first_line(error)}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if code is not None and frame.filename == code.co_filename:
            text = linecache.getline(frame.filename, frame.lineno).strip()
            shown = f", `{text}`," if text else ""
            return f"line {frame.lineno} of your cell{shown} {raised}"
    return f"your function {raised}"


def first_line(error: Exception) -> str:
    """Return the first line of a message, shortened."""
    lines = str(error).strip().splitlines() or ["no message"]
    return textwrap.shorten(lines[0], 160, placeholder=" …")
