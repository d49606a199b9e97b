"""Build a corpus folder: gather documents, split, encode, write, and only then move it in place."""

import hashlib
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from mini_moe.folders import data_folder
from mini_moe.text.corpus import (
    SPLITS,
    Corpus,
    corpus_folder,
    read_manifest,
    split_of,
    token_stream,
)
from mini_moe.text.domains import DOMAINS, Document
from mini_moe.text.domains.arithmetic import math_documents
from mini_moe.text.domains.document import random_for
from mini_moe.text.domains.library import code_documents, docs_documents
from mini_moe.text.domains.stories import story_documents
from mini_moe.text.domains.tables import table_documents
from mini_moe.text.tokenizer import Tokenizer, default_tokenizer, train_bpe

SIZES = {  # target bytes of text; each story is told once in each language
    "code": 3_500_000,
    "docs": 3_500_000,
    "stories": 2_000_000,
    "math": 2_000_000,
    "tables": 2_000_000,
}
SOURCES = {
    "code": code_documents,
    "docs": docs_documents,
    "stories": story_documents,
    "math": math_documents,
    "tables": table_documents,
}
ENCODED_AT_ONCE = 500  # documents; bounds memory use while encoding


def gather(seed: int, scale: float = 1.0) -> list[Document]:
    """Return all documents of the six domains, in an order drawn from `seed`."""
    documents = []
    for name, make in SOURCES.items():
        documents += make(seed, int(SIZES[name] * scale))
    documents.sort(key=lambda document: (document.id, document.domain))
    random_for(seed, "order").shuffle(documents)
    return documents


def train_tokenizer(documents: list[Document], vocab_size: int = 4096) -> Tokenizer:
    """Train a BPE on the training side, using the same number of bytes from each domain."""
    training = [document for document in documents if split_of(document.id) == "train"]
    totals = {name: sum(d.n_bytes for d in training if d.domain == name) for name in DOMAINS}
    smallest, used = min(filter(None, totals.values())), dict.fromkeys(DOMAINS, 0)
    texts = []
    for document in training:
        if used[document.domain] < smallest:
            used[document.domain] += document.n_bytes
            texts.append(document.text)
    return train_bpe(texts, vocab_size)


def build_corpus(
    folder: Path | None = None,
    *,
    seed: int = 0,
    scale: float = 1.0,
    tokenizer: Tokenizer | None = None,
    force: bool = False,
) -> dict:
    """Build the six domains into `folder` and return the manifest; does nothing if up to date.

    The same seed, Python version and tokenizer give the same files on any machine with the same
    standard library.

    Raises:
        ValueError: `scale` is not positive.
    """
    if not scale > 0:
        raise ValueError(f"scale: expected a positive share of the full size, got {scale}")
    folder = corpus_folder() if folder is None else Path(folder)
    tokenizer = default_tokenizer() if tokenizer is None else tokenizer
    recipe = {
        "seed": seed,
        "scale": scale,
        "python": platform.python_version(),
        "tokenizer_sha256": _sha256(tokenizer.to_json().encode()),
        "recipe_sha256": recipe_sha256(),
    }
    if not force and (manifest := _current(folder, recipe)):
        return manifest
    started = time.perf_counter()
    splits, domains = encode_documents(gather(seed, scale), tokenizer)
    seconds = round(time.perf_counter() - started, 1)
    manifest = {"recipe": recipe, "seconds": seconds, "domains": domains}
    return write_folder(folder, splits, tokenizer, manifest)


def build_text(folder: Path, corpus: Corpus) -> dict:
    """Write a corpus made by `Corpus.from_text` to a folder that `load_corpus` can read."""
    splits = {
        side: (getattr(corpus, side).tokens, getattr(corpus, side).domains) for side in SPLITS
    }
    return write_folder(Path(folder), splits, corpus.tokenizer, dict(corpus.manifest))


def encode_documents(documents: list[Document], tokenizer: Tokenizer) -> tuple[dict, dict]:
    """Return the token streams of both sides, and each domain's entry in the manifest."""
    ids = []
    for start in range(0, len(documents), ENCODED_AT_ONCE):
        texts = [document.text for document in documents[start : start + ENCODED_AT_ONCE]]
        ids += tokenizer.encode_many(texts)
    sides = [split_of(document.id) for document in documents]
    splits, counts = {}, {}
    for side in SPLITS:
        chosen = [n for n, other in enumerate(sides) if other == side]
        labels = [DOMAINS.index(documents[n].domain) for n in chosen]
        splits[side] = token_stream([ids[n] for n in chosen], labels)
    for domain in DOMAINS:
        own = sorted((d.id, d.text) for d in documents if d.domain == domain)
        digest = _sha256("\0".join(text for _, text in own).encode())
        counts[domain] = {"sha256": digest}
        for side in SPLITS:
            mine = [n for n, d in enumerate(documents) if d.domain == domain and sides[n] == side]
            counts[domain][side] = {
                "documents": len(mine),
                "bytes": sum(documents[n].n_bytes for n in mine),
                "tokens": sum(len(ids[n]) + 1 for n in mine),
            }
    return splits, counts


def write_folder(folder: Path, splits: dict, tokenizer: Tokenizer, manifest: dict) -> dict:
    """Write next to `folder`, then rename: a corpus is there in full or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        temporary.chmod(0o755)
        for side, (tokens, domains) in splits.items():
            np.save(temporary / f"{side}.tokens.npy", tokens, allow_pickle=False)
            np.save(temporary / f"{side}.domains.npy", domains, allow_pickle=False)
        tokenizer.save(temporary / "tokenizer.json")
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        manifest = manifest | {"files": sizes}
        text = json.dumps(manifest, indent=1, ensure_ascii=False)
        (temporary / "manifest.json").write_text(text + "\n", "utf-8", newline="\n")
        _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _replace_folder(new: Path, folder: Path) -> None:
    """Replace `folder` with `new`; folders can't be swapped atomically, so move the old one first.

    Raises: OSError if the old one can't be moved, as on Windows while a program reads it; it then
    stays where it was.
    """
    if not folder.exists():
        os.replace(new, folder)
        return
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-old-"))
    try:
        os.replace(folder, aside / folder.name)
        try:
            os.replace(new, folder)
        except BaseException:
            os.replace(aside / folder.name, folder)
            raise
    except PermissionError as error:
        raise PermissionError(
            f"{folder} can't be replaced: it is in use or write-protected; close the notebooks "
            f"that use it, then rebuild ({error})"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def recipe_sha256() -> str:
    """Return a hash of the generators and their material: when it changes, so does the corpus."""
    data, code = data_folder(), Path(__file__).parent
    files = [*code.glob("domains/*.py"), code / "build.py", code / "corpus.py"]
    files += [
        path for name in ("stories", "math", "tables") for path in data.glob(f"{name}/**/*.json")
    ]
    files.sort(
        key=lambda path: (path.parent.name, path.name)
    )  # independent of where it is installed
    return _sha256(b"".join(path.read_bytes() for path in files))


def _current(folder: Path, recipe: dict) -> dict | None:
    """Return the manifest of `folder` if it is complete and was built from this recipe."""
    try:
        manifest = read_manifest(folder)
    except ValueError:
        return None
    return manifest if manifest and manifest.get("recipe") == recipe else None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def manifest_table(manifest: dict) -> str:
    """Format the manifest as a table: per domain and side its documents, bytes and tokens."""
    heading = f"{'domain':<12}{'side':<12}{'documents':>10}{'bytes':>12}{'tokens':>11}  sha256"
    lines = [heading]
    for name, counts in manifest["domains"].items():
        for side in SPLITS:
            part = counts[side]
            digest = f"  {counts['sha256'][:12]}" if side == "train" else ""
            sizes = f"{part['documents']:>10,}{part['bytes']:>12,}{part['tokens']:>11,}"
            lines.append(f"{name if digest else '':<12}{side:<12}{sizes}{digest}")
    for side in SPLITS:
        parts = [counts[side] for counts in manifest["domains"].values()]
        total = {key: sum(part[key] for part in parts) for key in ("documents", "bytes", "tokens")}
        sizes = f"{total['documents']:>10,}{total['bytes']:>12,}{total['tokens']:>11,}"
        lines.append(f"{'all':<12}{side:<12}{sizes}")
    return "\n".join(lines)
