"""What a patient's code has that the healthy code has not, line by line."""

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
    """What it is, the lines that differ from the healthy code, where it bit, what pins it."""
    threads = "\n".join(f"- {GITHUB}{thread}" for thread in disease.threads)
    changed = "\n".join([*difference(disease.lesion), *(f" {line}" for line in disease.beside)])
    return (
        f"{disease.name}: {disease.what}\n\nHealthy (−) and sick (+):\n```diff\n{changed}\n```\n"
        f"Where it bit:\n{threads}\n\nThe test that notices it: `{disease.pinned_by}`"
    )


def difference(lesion: Lesion) -> list[str]:
    """The lines of a patient's configuration and code that are not the healthy ones, + and −."""
    pairs = (
        (settings(model_config(), {}), settings(model_config(), lesion.config)),
        (settings(train_config(), {}), settings(train_config(), lesion.training)),
        (statements(route), statements(lesion.route)),
        (statements(sequence_balance_loss), statements(lesion.balance_loss)),
    )
    return [line for healthy, sick in pairs for line in changed_lines(healthy, sick)]


def changed_lines(healthy: list[str], sick: list[str]) -> list[str]:
    """The − and + lines of a diff, without its headers and its context."""
    diff = difflib.unified_diff(healthy, sick, n=0, lineterm="")
    return [line for line in diff if line[0] in "+-" and not line.startswith(("+++", "---"))]


def settings(config: ModelConfig | TrainConfig, changes: dict) -> list[str]:
    """One line a field."""
    fields = dataclasses.asdict(dataclasses.replace(config, **changes))
    return [f"{name} = {value!r}" for name, value in fields.items()]


def statements(function: Callable) -> list[str]:
    """The lines of a function's body, without docstring and comments, constants as numbers."""
    function = inspect.unwrap(function)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    body = tree.body[ast.get_docstring(tree) is not None :]
    numbers = _Numbers(function.__globals__)
    body = [numbers.visit(statement) for statement in body]
    return [line for statement in body for line in ast.unparse(statement).splitlines()]


class _Numbers(ast.NodeTransformer):
    """Puts a number in the place of a name that stands for it."""

    def __init__(self, names: dict[str, object]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802, the name that ast calls
        value = self.names.get(node.id)
        return ast.Constant(value) if isinstance(value, int | float) else node
