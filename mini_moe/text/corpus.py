"""A corpus on disk or in memory: two splits of labelled tokens, a tokenizer, a manifest."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mini_moe.folders import built_folder
from mini_moe.text.batches import Split, domain_split
from mini_moe.text.pieces import encode_text, split_at_gaps
from mini_moe.text.tokenizer import END_OF_TEXT_ID, Tokenizer, character_tokenizer, train_bpe

SPLITS = ("train", "validation")
HASHED_AT_ONCE = 1 << 20  # tokens


@dataclass(frozen=True)
class Corpus:
    """Tokens for training and for validation, and everything needed to read them."""

    train: Split
    validation: Split
    tokenizer: Tokenizer
    domain_names: tuple[str, ...]  # Split.domains holds indices into this tuple
    manifest: dict

    @property
    def bytes_per_token(self) -> float:
        """Bytes per token of the validation text: bits per byte = loss / ln 2 / bytes_per_token."""
        return self.validation.bytes_per_token

    @cached_property
    def fingerprint(self) -> str:
        """Return a SHA-256 of the tokens, their domains and the tokenizer.

        It depends on content alone, not on the source file or the time of the build.
        """
        about = {
            "tokenizer": self.tokenizer.to_json(),
            "domains": self.domain_names,
            "tokens": [getattr(self, side).n_tokens for side in SPLITS],
        }
        digest = hashlib.sha256(json.dumps(about).encode())
        for side in SPLITS:
            split = getattr(self, side)
            for stream, kind in ((split.tokens, "<u4"), (split.domains, "u1")):
                for start in range(0, len(stream), HASHED_AT_ONCE):
                    digest.update(stream[start : start + HASHED_AT_ONCE].astype(kind).tobytes())
        return digest.hexdigest()

    @cached_property
    def validation_by_domain(self) -> dict[str, Split]:
        """Each domain's validation split, with its own byte count."""
        return {name: self.domain(name) for name in self.domain_names}

    def domain(self, name: str, split: str = "validation") -> Split:
        """Return the tokens of one domain on one side.

        Raises:
            ValueError: no such domain, or no such split.
        """
        if name not in self.domain_names:
            raise ValueError(f"name: expected one of {self.domain_names}, got {name!r}")
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
        part = domain_split(getattr(self, split), self.domain_names.index(name))
        n_bytes = self.manifest["domains"][name][split]["bytes"]
        return Split(part.tokens, part.domains, n_bytes)

    @classmethod
    def from_text(
        cls, path: str | Path, tokenizer: str | Tokenizer = "char", vocab_size: int = 4096
    ) -> "Corpus":
        """Build a corpus from any UTF-8 file: the first 90 % for training, the rest for validation.

        `tokenizer` is "char", "bpe" (trained on the first part, with at most `vocab_size` entries),
        or a Tokenizer.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the text is empty, too short to split, or not UTF-8.
        """
        text = read_text(path)
        cut = len(text) * 9 // 10
        if cut < 1:
            raise ValueError(f"path: {path}: expected at least 2 characters, got {len(text)}")
        parts = {"train": text[:cut], "validation": text[cut:]}
        if tokenizer == "char":
            tokenizer = character_tokenizer(text)
        elif tokenizer == "bpe":
            tokenizer = train_bpe(split_at_gaps(parts["train"]), vocab_size)
        elif not isinstance(tokenizer, Tokenizer):
            raise ValueError(f'tokenizer: expected "char", "bpe" or a Tokenizer, got {tokenizer!r}')
        splits, counts = {}, {}
        for name, part in parts.items():
            tokens = encode_text(tokenizer, part)
            splits[name] = Split(tokens, np.zeros(len(tokens), np.uint8), len(part.encode()))
            counts[name] = {"documents": 1, "bytes": splits[name].n_bytes, "tokens": len(tokens)}
        counts["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return cls(**splits, tokenizer=tokenizer, domain_names=("text",),
                   manifest={"source": Path(path).name, "domains": {"text": counts}})  # fmt: skip


def split_of(document_id: str, validation_fraction: float = 0.05) -> str:
    """Return a document's side: "validation" if the hash of its id falls below the fraction.

    The hash is the first eight bytes of SHA-256, read as a number in [0, 1). A document therefore
    never changes sides when others are added or removed, and two texts with the same id (a story
    and its translation) stay together.
    """
    number = int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:8], "big") / 2**64
    return "validation" if number < validation_fraction else "train"


def read_text(path: str | Path) -> str:
    """Read a UTF-8 file, keeping its line endings.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is empty or not UTF-8 (the first bad byte is named).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no file at {path}")
    raw = path.read_bytes()
    if not raw:
        raise ValueError(f"path: {path} is empty; expected UTF-8 text")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"path: {path} is not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start}); "
            "save it as UTF-8 first"
        ) from None


def corpus_folder() -> Path:
    """Return the folder in which the corpus of the six domains is built."""
    return built_folder() / "corpus"


def build_command(folder: Path, manifest: dict | None = None) -> str:
    """Return the command that builds the corpus in a folder; `manifest` may name a source text."""
    source = (manifest or {}).get("source")
    text = f' --text "{source}"' if source else ""
    out = "" if folder == corpus_folder() else f' --out "{folder}"'
    return f"python -m mini_moe.text{text}{out}"


def load_corpus(folder: str | Path | None = None) -> Corpus:
    """Load the corpus that `python -m mini_moe.text` built; tokens stay on disk until read.

    Raises:
        FileNotFoundError: nothing was built there.
        ValueError: files are missing, truncated, or don't match the manifest.
    """
    folder = corpus_folder() if folder is None else Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(
            f"folder: no corpus in {folder}; build it with: {build_command(folder)}"
        )
    names = tuple(manifest["domains"])
    splits = {}
    for side in SPLITS:
        counts = [manifest["domains"][name][side] for name in names]
        n_bytes = sum(count["bytes"] for count in counts)
        streams = [
            np.load(folder / f"{side}.{kind}.npy", mmap_mode="r", allow_pickle=False)
            for kind in ("tokens", "domains")
        ]
        splits[side] = Split(*streams, n_bytes)
        expected = sum(count["tokens"] for count in counts)
        if any(len(stream) != expected for stream in streams):
            raise ValueError(
                f"folder: {folder}: {side} has {splits[side].n_tokens} tokens, "
                f"its manifest says {expected}; rebuild it: "
                f"{build_command(folder, manifest)} --force"
            )
    return Corpus(
        **splits,
        tokenizer=Tokenizer.load(folder / "tokenizer.json"),
        domain_names=names,
        manifest=manifest,
    )


def read_manifest(folder: Path) -> dict | None:
    """Read the manifest of a complete corpus; return None if there is none.

    Raises:
        ValueError: the manifest is unreadable, or a file it lists is missing or has another size.
    """
    path = Path(folder) / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text("utf-8"))
        sizes = {name: int(size) for name, size in manifest["files"].items()}
        manifest["domains"].items()
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"folder: {path} is not a corpus manifest ({error!r})") from None
    for name, size in sizes.items():
        file = Path(folder) / name
        got = file.stat().st_size if file.is_file() else None
        if got != size:
            raise ValueError(
                f"folder: {file}: expected {size} bytes, got {got}; "
                f"rebuild the corpus: {build_command(Path(folder), manifest)} --force"
            )
    return manifest


def token_stream(ids: list[np.ndarray], domains: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate documents, each followed by the end-of-text token, labelled with its domain."""
    end = np.array([END_OF_TEXT_ID], dtype=np.uint16)
    if not ids:
        return end[:0], np.zeros(0, np.uint8)
    tokens = np.concatenate([part for document in ids for part in (document, end)])
    labels = np.repeat(np.array(domains, np.uint8), [len(document) + 1 for document in ids])
    return tokens, labels
