"""The wheel and the source archive hold what the package needs and work outside the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import find_packages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PARTS = ("mini_moe", "data", "pyproject.toml", "README.md", "LICENSE")
COMMITTED = (
    "README.md",
    "experiments/balance.jsonl",
    "math/word_problems.json",
    "prompts.json",
    "stories/plots/well.json",
    "stories/verbs.json",
    "tables/topics.json",
    "tokenizer.json",
)
MAX_WHEEL_BYTES = 30_000_000
BUILD = "from setuptools import build_meta as b; import sys; print(getattr(b, sys.argv[1])('dist'))"


def build(kind, folder):
    """Return the archive that setuptools builds from a folder."""
    command = [sys.executable, "-c", BUILD, f"build_{kind}"]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return folder / "dist" / done.stdout.decode().splitlines()[-1]


def names_in(wheel):
    """Return the package's files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, since a build leaves files in its folder."""
    folder = tmp_path_factory.mktemp("source")
    ignore = shutil.ignore_patterns("__pycache__", "corpus", "downloads", "*.part")
    for name in PARTS:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder)
    for name in (
        "corpus/train.tokens.npy",
        "downloads/text.txt",
    ):  # as in a checkout that has been used
        (folder / "data" / name).parent.mkdir()
        (folder / "data" / name).write_bytes(b"built here")
    (folder / "mini_moe" / "_C.abi3.so").write_bytes(b"of this machine")
    return folder


@pytest.fixture(scope="module")
def wheel(source):
    return build("wheel", source)


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel, installed."""
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


@pytest.fixture
def python(site, tmp_path):
    """Run the installed package in an empty folder; give its status and output."""
    home = tmp_path / "home"
    environment = os.environ | {
        "PYTHONPATH": str(site),
        "HOME": str(home),
        "USERPROFILE": str(home),
    }

    def run(*arguments):
        command = [sys.executable, "-W", "ignore", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        return done.returncode, done.stdout.decode() + done.stderr.decode()

    return run


def test_every_package_is_listed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = sorted(find_packages(ROOT, include=["mini_moe*"]))
    assert listed["packages"] == [*found, "mini_moe._data"]


def test_the_wheel_holds_all_that_is_committed_and_nothing_built(wheel):
    names = names_in(wheel)
    data = {name for name in names if name.startswith("mini_moe/_data/")}
    for path in [*(ROOT / "mini_moe").rglob("*.py"), ROOT / "mini_moe/checker/recordings.json"]:
        assert path.relative_to(ROOT).as_posix() in names
    for name in COMMITTED:
        assert f"mini_moe/_data/{name}" in data
    for path in (ROOT / "data" / "checkpoints").rglob("*.*"):
        assert f"mini_moe/_data/{path.relative_to(ROOT / 'data').as_posix()}" in data
    assert not [name for name in names if "corpus/" in name or "downloads/" in name]
    assert not [name for name in names if name.endswith(".so")]
    assert {name.partition("/")[0] for name in names} == {"mini_moe"}
    assert wheel.name.endswith("py3-none-any.whl") and wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_source_archive_makes_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(build("sdist", source)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    assert names_in(build("wheel", unpacked)) == names_in(wheel)


def test_the_installed_model_writes(python):
    arguments = ["--prompt", "Once upon", "--max_new_tokens", 3, "--seed", 1]
    status, said = python("-m", "mini_moe.inference", *arguments)
    assert status == 0 and said.startswith("Once upon")


def test_the_advice_for_a_missing_corpus_works(python, site, tmp_path):
    before = sorted(site.rglob("*.json*"))
    status, said = python("-c", "import mini_moe.text as t; t.load_corpus()")
    assert status == 1
    advice = said.strip().rpartition("build it with: python ")[2]
    assert advice == "-m mini_moe.text"
    status, said = python("-c", "from mini_moe.text.build import build_corpus as b; b(scale=0.01)")
    assert status == 0, said
    status, said = python("-c", "import mini_moe.text as t; print(t.load_corpus().domain_names)")
    assert status == 0 and "stories_en" in said
    assert (tmp_path / "home/.cache/mini_moe/corpus/manifest.json").is_file()
    assert sorted(site.rglob("*.json*")) == before


def test_what_needs_the_repository_says_so(python):
    status, said = python("-m", "mini_moe.text", "--train-tokenizer")
    assert status == 1 and "needs a checkout of the repository" in said
    status, said = python("-c", "from mini_moe.ops import describe; print(describe())")
    assert status == 0 and "the sources are in the repository" in said
    status, said = python("-c", "from mini_moe.views.kernels import climb; climb()")
    assert status == 1 and "NoCompiler" in said
