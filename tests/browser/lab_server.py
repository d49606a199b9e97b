"""A private JupyterLab for the tests: its own folders, its own token, copies of the notebooks."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

OVERRIDES = Path(__file__).with_name("overrides.json")
START_SECONDS = 90


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing is listening on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class LabServer:
    """A running JupyterLab; `folder` is its root, `log` its output."""

    folder: Path
    port: int
    token: str
    process: subprocess.Popen
    log: Path

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def notebook_url(self, path: str) -> str:
        # reset: a fresh workspace, so that no notebook from an earlier test is open.
        return f"{self.origin}/lab/tree/{path}?token={self.token}&reset"

    def request(self, method: str, path: str) -> bytes:
        """Call the server's REST API and return the body."""
        headers = {"Authorization": f"token {self.token}"}
        call = urllib.request.Request(f"{self.origin}{path}", method=method, headers=headers)
        with urllib.request.urlopen(call, timeout=30) as answer:
            return answer.read()

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_lab(base: Path, notebooks: Path) -> LabServer:
    """Start JupyterLab on copies of `notebooks` under `base`; return once it answers."""
    folder = base / "root"
    if notebooks.is_dir():
        ignore = shutil.ignore_patterns(".ipynb_checkpoints")
        shutil.copytree(notebooks, folder / "notebooks", ignore=ignore)
    folder.mkdir(exist_ok=True)
    labconfig = base / "config" / "labconfig"
    labconfig.mkdir(parents=True)
    shutil.copy(OVERRIDES, labconfig / "default_setting_overrides.json")
    port, token, log = free_port(), secrets.token_hex(16), base / "lab.log"
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--expose-app-in-browser"]
    command += ["--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(base), stdout=out, stderr=subprocess.STDOUT
        )
    server = LabServer(folder, port, token, process, log)
    _wait_until_it_answers(server)
    return server


def _environment(base: Path) -> dict[str, str]:
    """Put every folder that Jupyter and IPython write to under `base`."""
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    return os.environ | {name: str(base / folder) for name, folder in folders.items()}


def _wait_until_it_answers(server: LabServer) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            server.request("GET", "/api/status")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    server.stop()
    raise RuntimeError(f"JupyterLab did not answer in {START_SECONDS} s:\n{server.log.read_text()}")
