"""The repository keeps its shape: few folders, exact pins, no files that don't belong."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDERS = {".ci", ".github", "data", "kernels", "mini_moe", "notebooks", "tests"}
MAX_FILE_BYTES = 15_000_000
PICKLES = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


@pytest.fixture(scope="module")
def tracked():
    """Return the existing paths that git tracks, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    paths = [Path(name) for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


def requirement_lines():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins():
    requirements = [Requirement(line) for line in requirement_lines()[:-1]]
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def python_files():
    return [*(ROOT / "mini_moe").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]


def test_no_other_folder_stands_at_the_top(tracked):
    assert {path.parts[0] for path in tracked if len(path.parts) > 1} <= FOLDERS


def test_every_requirement_is_pinned_exactly():
    assert requirement_lines()[-1] == "-e ."
    for name, pin in pins().items():
        assert re.fullmatch(r"==\d+(\.\d+)+", pin), f"{name}{pin}"


def test_torch_is_the_plain_release():
    assert "torch==2.13.0" in requirement_lines()


def test_every_range_of_the_package_admits_its_pin():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    ranges = project["dependencies"] + project["optional-dependencies"]["dev"]
    for needed in map(Requirement, ranges):
        version = pins()[needed.name].removeprefix("==")
        assert needed.specifier.contains(version), f"{needed} excludes the pinned {version}"


def test_the_citation_names_the_version_and_licence_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_hosted_ci_runs_what_everyone_runs_with_pinned_actions():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step.get("run") for step in steps]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"[\w/-]+@v\d+", action) for action in used)


def test_no_notebook_exceeds_one_megabyte():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert path.stat().st_size <= 1_000_000, path.name


def test_no_tracked_file_is_huge(tracked):
    assert [path for path in tracked if (ROOT / path).stat().st_size > MAX_FILE_BYTES] == []


def test_weights_are_never_pickles(tracked):
    assert [path for path in tracked if path.suffix in PICKLES] == []


def test_built_tokens_are_not_committed(tracked):
    assert [path for path in tracked if path.is_relative_to("data/corpus")] == []


def test_no_source_file_exceeds_three_hundred_lines():
    long = {path.name: len(path.read_text("utf-8").splitlines()) for path in python_files()}
    assert {name: lines for name, lines in long.items() if lines > 300} == {}


def test_no_hint_is_postponed():
    postponed = "from __future__ import " + "annotations"
    assert [path.name for path in python_files() if postponed in path.read_text("utf-8")] == []


def names_no_encoding(call):
    """Return whether a call reads or writes text in the locale's encoding."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    named = {keyword.arg for keyword in call.keywords}
    if "encoding" in named:
        return False
    values = {argument.value for argument in call.args if isinstance(argument, ast.Constant)}
    if name == "open":
        method = isinstance(call.func, ast.Attribute)
        owner = getattr(getattr(call.func, "value", None), "id", "")
        binary = any("b" in value for value in values if isinstance(value, str))
        return owner not in ("os", "tarfile") and not binary and (method or bool(call.args))
    if name in ("run", "Popen", "check_output"):
        return bool({"text", "universal_newlines"} & named)
    return name in ("read_text", "write_text") and len(call.args) < (name == "write_text") + 1


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ("path.read_text()", False),
        ('path.read_text("utf-8")', True),
        ("path.write_text(text)", False),
        ('path.write_text(text, encoding="utf-8")', True),
        ('open(path, "w")', False),
        ('path.open("rb")', True),
        ("subprocess.run(command, text=True)", False),
        ('subprocess.run(command, encoding="utf-8")', True),
    ],
)
def test_calls_without_an_encoding_are_found(code, named):
    assert names_no_encoding(ast.parse(code).body[0].value) is not named


def test_no_text_depends_on_the_locale():
    found = []
    for path in [*(ROOT / "mini_moe").rglob("*.py"), ROOT / "kernels" / "build.py"]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and names_no_encoding(node):
                found.append(f"{path.name}:{node.lineno}")
    assert found == []
