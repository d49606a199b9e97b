"""How a patient's code differs from the healthy code, line by line."""

import ast
import dataclasses
import difflib
import inspect
import textwrap
from collections.abc import Callable

from mini_moe.config import ModelConfig, TrainConfig
from mini_moe.model.router import route
from mini_moe.teaching.clinic.diseases import Disease, Lesion
from mini_moe.teaching.clinic.patient import model_config, train_config
from mini_moe.training.losses import sequence_balance_loss

GITHUB = "https://github.com/"


def file_of(disease: Disease) -> str:
    """Describe a disease: what it is, the lines that differ, where it occurred, its test."""
    threads = "\n".join(f"- {GITHUB}{thread}" for thread in disease.threads)
    changed = "\n".join([*difference(disease.lesion), *(f" {line}" for line in disease.beside)])
    return (
        f"{disease.name}: {disease.what}\n\nHealthy (−) and sick (+):\n```diff\n{changed}\n```\n"
        f"Where it occurred:\n{threads}\n\nThe test that catches it: `{disease.pinned_by}`"
    )


def difference(lesion: Lesion) -> list[str]:
    """Return the + and − lines between healthy and sick configuration and code."""
    pairs = (
        (settings(model_config(), {}), settings(model_config(), lesion.config)),
        (settings(train_config(), {}), settings(train_config(), lesion.training)),
        (statements(route), statements(lesion.route)),
        (statements(sequence_balance_loss), statements(lesion.balance_loss)),
    )
    return [line for healthy, sick in pairs for line in changed_lines(healthy, sick)]


def changed_lines(healthy: list[str], sick: list[str]) -> list[str]:
    """Return the − and + lines of a diff, without headers and context."""
    diff = difflib.unified_diff(healthy, sick, n=0, lineterm="")
    return [line for line in diff if line[0] in "+-" and not line.startswith(("+++", "---"))]


def settings(config: ModelConfig | TrainConfig, changes: dict) -> list[str]:
    """Return one line per field."""
    fields = dataclasses.asdict(dataclasses.replace(config, **changes))
    return [f"{name} = {value!r}" for name, value in fields.items()]


def statements(function: Callable) -> list[str]:
    """Return the lines of a function's body, without docstring and comments, constants inlined."""
    function = inspect.unwrap(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    body = tree.body[ast.get_docstring(tree) is not None :]
    numbers = _Numbers(function.__globals__)
    body = [numbers.visit(statement) for statement in body]
    return [line for statement in body for line in ast.unparse(statement).splitlines()]


class _Numbers(ast.NodeTransformer):
    """Replaces names of numeric constants by their values."""

    def __init__(self, names: dict[str, object]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802, the name that ast calls
        value = self.names.get(node.id)
        return ast.Constant(value) if isinstance(value, int | float) else node
