"""Find the Chromium that runs the browser tests and draws stored figures."""

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MISSING = f"no Chromium found: install one ({', '.join(NAMES)}) or name it in $CHROMIUM"

# It must run as root and on machines without a network; it never needs to call out.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """Return the path of a Chromium-like browser: $CHROMIUM first, then PATH; None without one."""
    named = os.environ.get("CHROMIUM")
    for name in (named,) if named else NAMES:
        if path := shutil.which(name):
            return path
    return None
