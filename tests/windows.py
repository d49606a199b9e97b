"""How Windows treats files and modules differently, simulated on Linux."""

import os
import shutil
import stat
import sys
from pathlib import Path

MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
CALLS = (
    "fork", "geteuid", "getloadavg", "getuid", "killpg", "mkfifo", "sched_getaffinity",
    "sched_setaffinity", "statvfs", "sysconf", "uname",
)  # fmt: skip


def hide_posix() -> None:
    """From now on, hide all modules and functions of `os` that Windows lacks from this process."""
    for name in MODULES:
        sys.modules[name] = None
    for name in CALLS:
        delattr(os, name)


def refuse_like_windows(monkeypatch) -> None:
    """Refuse to open folders, flush files open for reading, or replace files in use."""
    monkeypatch.setattr(shutil, "_use_fd_functions", False)  # rmtree uses names there
    monkeypatch.setattr(os, "open", _unless_folder(os.open))
    monkeypatch.setattr(os, "fsync", _unless_reading(os.fsync))
    for name in ("rename", "replace", "remove", "unlink"):
        monkeypatch.setattr(os, name, _unless_in_use(getattr(os, name)))


def _unless_folder(call):
    def open_file(path, *rest, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return call(path, *rest, **named)

    return open_file


def _unless_reading(call):
    import fcntl

    def flush(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        return call(handle)

    return flush


def _unless_in_use(call):
    def move_or_remove(*paths, **named):
        for path in paths:
            if named.get("dir_fd") is None and in_use(Path(path).absolute()):
                raise PermissionError(13, "The process cannot access the file", str(path))
        return call(*paths, **named)

    return move_or_remove


def in_use(path: Path) -> bool:
    """Return whether this process has the file, or a file in the folder, open or mapped."""
    held = [
        line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text("utf-8").split("\n")
    ]
    names = {line[5] for line in held if len(line) == 6 and line[5].startswith("/")}
    for handle in Path("/proc/self/fd").iterdir():
        try:
            if stat.S_ISREG(handle.stat().st_mode):
                names.add(os.readlink(handle))
        except OSError:  # the handle that is listing the others
            continue
    return any(Path(name) == path or path in Path(name).parents for name in names)
