"""Two domains every machine already has: Python's standard library and its documentation.

`code` is the source without docstrings and `docs` is the docstrings and the language reference,
so no text appears in both.
"""

import ast
import importlib
import inspect
import io
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from mini_moe.text.domains.document import Document, random_for

# Tests, tables, generated grammars, and whatever differs between installations.
SKIPPED_FOLDERS = {
    "__pycache__", "dist-packages", "encodings", "ensurepip", "idle_test", "idlelib", "lib-dynload",
    "lib2to3", "pydoc_data", "site-packages", "test", "tests", "_vendor",
}  # fmt: skip
SKIPPED_PREFIXES = ("_sysconfigdata", "_sysconfig_vars", "sitecustomize", "usercustomize")
SHORTEST_TEXT = 100  # characters; anything shorter is uninformative
LONGEST_MODULE = 100_000  # bytes; longer files are mostly tables, or would outweigh the others


def standard_library(root: Path | None = None) -> dict[str, Path]:
    """Return the standard library's module names and files under `root`, in name order."""
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    modules = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).with_suffix("").parts
        if SKIPPED_FOLDERS.intersection(parts) or parts[0].startswith("config-"):
            continue
        if not parts[-1].startswith(SKIPPED_PREFIXES):
            modules[".".join(parts)] = path
    return dict(sorted(modules.items()))


def parse_module(path: Path) -> tuple[str, ast.Module] | None:
    """Return source and syntax tree, or None if the file is not valid Python in valid UTF-8."""
    try:
        source = io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8").read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in old modules are not our concern
            return source, ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return None


def documented_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the module, classes and functions of a tree that have a docstring, outermost first."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            yield node


def strip_docstrings(source: str, tree: ast.Module | None = None) -> str:
    """Remove docstrings from source; a body that held nothing else becomes `pass`."""
    tree = ast.parse(source) if tree is None else tree
    lines = source.encode().splitlines(keepends=True)  # the tree counts columns in UTF-8 bytes
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    raw = b"".join(lines)
    cuts = []
    for node in documented_nodes(tree):
        text = node.body[0]
        begin = starts[text.lineno - 1] + text.col_offset
        end = starts[text.end_lineno - 1] + text.end_col_offset
        alone = len(node.body) == 1 and not isinstance(node, ast.Module)
        cuts.append((begin, end, b"pass" if alone else b""))
    for begin, end, replacement in sorted(cuts, reverse=True):
        raw = _cut(raw, begin, end, replacement)
    return raw.decode().strip("\n") + "\n"


def _cut(raw: bytes, begin: int, end: int, replacement: bytes) -> bytes:
    """Remove raw[begin:end]; if its line is then empty, remove it and the blank lines after it."""
    line_start = raw.rfind(b"\n", 0, begin) + 1
    line_end = raw.find(b"\n", end) + 1 or len(raw)
    if not replacement:
        if raw[line_start:begin].strip() == b"" and raw[end:line_end].strip() == b"":
            rest = raw[line_end:]
            stripped = rest.lstrip(b" \t\n")
            kept = rest[rest.rfind(b"\n", 0, len(rest) - len(stripped)) + 1 :]
            return raw[:line_start] + kept
        if raw[end:line_end].lstrip().startswith(b";"):
            end = raw.index(b";", end) + 1
            end += len(raw[end:line_end]) - len(raw[end:line_end].lstrip(b" "))
        else:
            replacement = b"pass"
    return raw[:begin] + replacement + raw[end:]


def code_documents(seed: int, n_bytes: int) -> Iterator[Document]:
    """Yield standard-library modules without docstrings, in an order drawn from `seed`."""
    used = 0
    for name, path in _shuffled(standard_library(), seed, "code"):
        if used >= n_bytes:
            break
        parsed = parse_module(path)
        if parsed is None or path.stat().st_size > LONGEST_MODULE:
            continue
        text = strip_docstrings(*parsed).strip("\n")
        if len(text) < SHORTEST_TEXT:
            continue
        document = Document(f"code/{name}", "code", text)
        used += document.n_bytes
        yield document


def docs_documents(seed: int, n_bytes: int) -> Iterator[Document]:
    """Yield the language reference's topics and each module's docstrings, ordered by `seed`."""
    topics, modules, used = language_reference(), standard_library(), 0
    names = {f"topic/{name}": name for name in topics}
    names |= {f"module/{name}": name for name in modules}
    for path, name in _shuffled(names, seed, "docs"):
        if used >= n_bytes:
            break
        if path.startswith("topic/"):
            text = topics[name]
        else:
            parsed = parse_module(modules[name])
            text = module_reference(name, parsed[1]) if parsed else ""
        if len(text) < SHORTEST_TEXT:
            continue
        document = Document(f"docs/{path}", "docs", text)
        used += document.n_bytes
        yield document


def language_reference() -> dict[str, str]:
    """Return the topics of Python's own help (`help("lambda")`), if the distribution has them."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        return {}
    return {name: text.strip() for name, text in sorted(topics.items())}


def module_reference(name: str, tree: ast.Module) -> str:
    """Join a module's docstrings into one reference text: heading, prose, then each signature."""
    name = name.removesuffix(".__init__")
    parts = []
    for node, path in _named_nodes(tree, name):
        text = inspect.cleandoc(ast.get_docstring(node, clean=False)).strip()
        if text:
            parts.append(f"{_heading(node, path)}\n\n{text}")
    return "\n\n\n".join(parts)


def _named_nodes(node: ast.AST, path: str) -> Iterator[tuple[ast.AST, str]]:
    if ast.get_docstring(node, clean=False) is not None:
        yield node, path
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _named_nodes(child, f"{path}.{child.name}")


def _heading(node: ast.AST, path: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {path}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        return f"class {path}({bases})" if bases else f"class {path}"
    return f"{path}({ast.unparse(node.args)})"


def _shuffled(items: dict[str, object], seed: int, domain: str) -> list[tuple[str, object]]:
    ordered = sorted(items.items())
    random_for(seed, domain, "order").shuffle(ordered)
    return ordered


def code_tokens(source: str) -> list[str]:
    """Return Python's tokens of a source, without comments and layout (for comparing sources)."""
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    read = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string for token in read if token.type not in layout]
