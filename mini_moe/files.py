"""Replace several files at once: all are written in full before any existing one is touched."""

import errno
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from safetensors.torch import save_file

TEMPORARY = ".writing-"
# Errors on systems that can't flush a folder: Windows and some network file systems.
NO_FOLDER_FLUSH = {errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR, errno.ENOTSUP}


def replace_files(folder: Path, files: dict[str, object], stale: tuple[str, ...] = ()) -> None:
    """Write `files` into `folder`; nothing there changes unless every file could be written.

    Each value is text, a JSON object, or, if the name ends in .safetensors, a dict of tensors.
    Files are written and flushed in a temporary subfolder, then renamed into place in the order
    given. Old files that match a pattern in `stale` and were not just written are removed, as are
    temporary folders more than an hour old that a killed process left behind.
    A process killed between two renames leaves a mix of new and old files: if that matters, write
    to a fresh folder and rename the folder, as training does.
    Raises: OSError if something can't be written; the temporary folder is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob(TEMPORARY + "*"):
        if time.time() - other.stat().st_mtime > 3600:
            shutil.rmtree(other, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder))
    try:
        for name, content in files.items():
            write_durably(temporary / name, content)
        move_all(temporary, folder, list(files))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for pattern in stale:
        for old in set(folder.glob(pattern)) - {folder / name for name in files}:
            old.unlink()
    sync_folder(folder)


def move_all(source: Path, folder: Path, names: list[str]) -> None:
    """Rename files from one folder into another; if one can't be replaced, none are.

    Windows refuses to replace a file that any program has open.
    Raises: OSError naming the file.
    """
    kept = Path(tempfile.mkdtemp(prefix="old-", dir=source))
    moved = []
    try:
        for name in names:
            if (folder / name).exists():
                keep(folder / name, kept / name)
            os.replace(source / name, folder / name)
            moved.append(name)
    except BaseException as error:  # Ctrl-C as well
        for name in moved:
            if (kept / name).exists():
                os.replace(kept / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        if isinstance(error, PermissionError):
            raise PermissionError(
                f"{folder / name} can't be replaced: it is in use or write-protected ({error})"
            ) from error
        raise


def keep(file: Path, copy: Path) -> None:
    """Give a file a second name, or copy it if the file system has no hard links."""
    try:
        os.link(file, copy)
    except OSError:
        shutil.copy2(file, copy)


def write_durably(path: Path, content: object) -> None:
    """Write text, a JSON object or tensors, and wait until they are on disk.

    Lines end in a line feed on every system, so the same content always has the same checksum.
    """
    if path.suffix == ".safetensors":
        path.touch()
        mode = path.stat().st_mode  # save_file creates files that only their owner can read
        try:
            save_file(content, path, metadata={"format": "pt"})
            path.chmod(mode)
        except Exception as error:  # safetensors wraps a full disk in its own error
            raise OSError(f"could not write {path.name}: {error}") from error
    else:
        text = content if isinstance(content, str) else json.dumps(content, indent=2) + "\n"
        path.write_text(text, encoding="utf-8", newline="\n")
    with path.open("r+b") as file:  # Windows flushes only files open for writing
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power cut, if the system supports that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NO_FOLDER_FLUSH:
            raise
