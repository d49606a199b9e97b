"""Download one file and accept it only if its checksum is right."""

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

CHUNK = 1 << 16  # bytes read at once
LARGEST = 1 << 30  # bytes; more than any text this project trains on


def download(url: str, sha256: str, path: str | Path, *, timeout: float = 30.0) -> Path:
    """Download `url` to `path` if its SHA-256 is right; a correct file already there is kept.

    Streams into a temporary file next to `path`, verifies, renames. If anything goes wrong,
    nothing is left behind.

    Raises:
        ValueError: not an http(s) address, not a SHA-256, a wrong checksum, or over 1 GiB.
        ConnectionError: offline, timed out, cut off, or refused by the server (with its status).
    """
    path, expected = Path(path), _checked(url, sha256)
    if path.is_file() and file_sha256(path) == expected:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            got = _stream(url, file, timeout)
        if got != expected:
            raise ValueError(f"sha256: expected {expected}, got {got} from {url}")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(url: str, sha256: str) -> str:
    """Return the checksum in lower case, after checking the form of address and checksum."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise ValueError(f"url: expected an http:// or https:// address, got {url!r}")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ValueError(f"sha256: expected 64 hex digits, got {sha256!r}")
    return sha256.lower()


def _stream(url: str, file, timeout: float) -> str:
    """Copy the response to `file` and return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            announced = response.headers.get("Content-Length")
            while chunk := response.read(CHUNK):
                size += len(chunk)
                if size > LARGEST:
                    raise ValueError(f"url: {url} is larger than {LARGEST} bytes")
                digest.update(chunk)
                file.write(chunk)
    except urllib.error.HTTPError as error:
        raise ConnectionError(
            f"url: {url}: the server answered {error.code} {error.reason}"
        ) from None
    except urllib.error.URLError as error:
        raise ConnectionError(
            f"url: cannot reach {url} ({error.reason}); without a network, save the file yourself "
            "and use --text"
        ) from None
    except (TimeoutError, ConnectionError) as error:
        raise ConnectionError(f"url: the connection to {url} was lost ({error})") from None
    if announced is not None and size != int(announced):
        raise ConnectionError(f"url: {url} ended after {size} of {announced} bytes")
    return digest.hexdigest()
