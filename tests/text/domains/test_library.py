"""The standard library yields code without docstrings and docs without code."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mini_moe.text.domains.library import (
    code_documents,
    code_tokens,
    docs_documents,
    language_reference,
    module_reference,
    parse_module,
    standard_library,
    strip_docstrings,
)


def without_docstrings(tree):
    """Oracle: make the same edit on the syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node, clean=False) is not None:
                alone = len(node.body) == 1 and not isinstance(node, ast.Module)
                node.body[:1] = [ast.Pass()] if alone else []
    return ast.dump(tree)


def write_tree(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('"""Docs."""\nx = 1\n')


def test_tests_and_tables_are_not_the_library(tmp_path):
    write_tree(
        tmp_path, "json/decoder.py", "re.py", "test/test_re.py", "unittest/test/x.py",
        "site-packages/numpy.py", "idlelib/run.py", "encodings/cp037.py", "lib2to3/tests/a.py",
        "_sysconfigdata__linux.py", "config-3.11/python-config.py", "pydoc_data/topics.py",
    )  # fmt: skip
    assert list(standard_library(tmp_path)) == ["json.decoder", "re"]


def test_order_does_not_come_from_the_file_system(tmp_path):
    write_tree(tmp_path, "z.py", "a.py", "m/k.py", "m/b.py")
    assert list(standard_library(tmp_path)) == ["a", "m.b", "m.k", "z"]


def test_no_module_is_from_outside_the_library():
    for name in standard_library():
        assert not set(name.split(".")) & {"site-packages", "dist-packages", "tests"}, name


@pytest.mark.parametrize(
    ("source", "stripped"),
    [
        ('"""Docs."""\nx = 1\n', "x = 1\n"),
        ('def f():\n    """Docs."""\n', "def f():\n    pass\n"),
        ('def f():\n    """Docs."""\n    return 1\n', "def f():\n    return 1\n"),
        ('def f():\n    """Docs.\n\n    More.\n    """\n\n    x = 1\n', "def f():\n    x = 1\n"),
        ('class A:\n    "Docs"; x = 1\n', "class A:\n    x = 1\n"),
        ('def f(): "Docs"\n', "def f(): pass\n"),
        ('def f():\n    "Größe"; return "ü"\n', 'def f():\n    return "ü"\n'),
        ('def f():\n    "Docs"  # why\n    x = 1\n', "def f():\n    pass  # why\n    x = 1\n"),
        ('def f():\n    return """no docs"""\n', 'def f():\n    return """no docs"""\n'),
        ('async def f():\n    "Docs"\n    class B:\n        "Docs"\n',
         "async def f():\n    class B:\n        pass\n"),
        ('"""Only docs."""', "\n"),
    ],
)  # fmt: skip
def test_docstrings_are_removed_and_the_rest_is_kept(source, stripped):
    assert strip_docstrings(source) == stripped


def test_real_modules_keep_their_meaning():
    modules = standard_library()
    for name in ("ast", "dataclasses", "json.decoder", "typing", "enum", "textwrap", "queue"):
        source, tree = parse_module(modules[name])
        stripped = ast.parse(strip_docstrings(source, tree))
        for node in ast.walk(stripped):  # ignore a `pass` left next to a comment
            body = getattr(node, "body", None)
            if isinstance(body, list) and len(body) > 1 and isinstance(body[0], ast.Pass):
                del body[0]
        assert ast.dump(stripped) == without_docstrings(tree), name


@given(st.text("abc \t'\"#\\äé\u2028", max_size=30))
def test_strings_of_any_content_are_cut_cleanly(docs):
    source = f"def f():\n    {docs!r}\n    return {docs!r}\n"
    assert strip_docstrings(source) == f"def f():\n    return {docs!r}\n"


def test_code_and_docs_share_no_docstring():
    code = {document.id: document.text for document in code_documents(0, 400_000)}
    source, _ = parse_module(standard_library()["json.encoder"])
    docstring = "Extensible JSON <https://json.org> encoder for Python data structures."
    assert docstring in source and docstring not in strip_docstrings(source)
    assert all(text == text.strip("\n") and len(text) >= 100 for text in code.values())


def test_code_order_follows_the_seed_alone():
    one, again, other = ([d.id for d in code_documents(s, 100_000)] for s in (1, 1, 2))
    assert one == again != other


def test_hash_randomisation_changes_nothing():
    program = (
        "from mini_moe.text.domains.library import code_documents, docs_documents\n"
        "for make in (code_documents, docs_documents):\n"
        "    print([(d.id, len(d.text)) for d in make(0, 60_000)])"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    here = [make(0, 60_000) for make in (code_documents, docs_documents)]
    assert told == "".join(f"{[(d.id, len(d.text)) for d in documents]}\n" for documents in here)


def test_size_is_about_what_was_asked_for():
    for make in (code_documents, docs_documents):
        documents = list(make(0, 200_000))
        n_bytes = sum(document.n_bytes for document in documents)
        assert 200_000 <= n_bytes < 200_000 + 110_000
        assert {document.domain for document in documents} == {make.__name__[:4]}


def test_a_reference_names_classes_and_signatures():
    source = '"""Top."""\nclass A(B):\n    """Kind."""\n'
    source += '    def f(self, *, x=1):\n        """Do."""\n'
    assert module_reference("pkg.__init__", ast.parse(source)) == (
        "module pkg\n\nTop.\n\n\nclass pkg.A(B)\n\nKind.\n\n\npkg.A.f(self, *, x=1)\n\nDo."
    )


def test_language_reference_explains_the_language():
    topics = language_reference()
    assert not topics or "lambda" in topics


@pytest.mark.parametrize("raw", [b"def f(:\n", b"\xff\xfe\n", b"x = '\x00'\n"])
def test_invalid_python_is_skipped(raw, tmp_path):
    (tmp_path / "bad.py").write_bytes(raw)
    assert parse_module(tmp_path / "bad.py") is None


def test_code_tokens_ignore_layout():
    assert code_tokens("if x:  # why\n    y\n") == code_tokens("if x:\n\n  y\n")
