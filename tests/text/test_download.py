"""A download arrives complete and verified, or leaves nothing behind."""

import hashlib
import http.server
import socket
import threading

import pytest

from mini_moe.text import download as module
from mini_moe.text.download import download, file_sha256

TEXT = b"Ein Text aus dem Netz.\n" * 10_000
SHA256 = hashlib.sha256(TEXT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves TEXT in full, truncated, redirected, or not at all."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/text")
            self.end_headers()
        elif self.path == "/to-a-file":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path in ("/text", "/cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(TEXT)))
            self.end_headers()
            self.wfile.write(TEXT if self.path == "/text" else TEXT[:1000])
        else:
            self.send_error(404)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.asked.clear()
    return f"http://127.0.0.1:{server.server_port}"


def test_the_right_file_arrives(url, tmp_path):
    path = download(f"{url}/text", SHA256.upper(), tmp_path / "new" / "text.txt")
    assert path.read_bytes() == TEXT and file_sha256(path) == SHA256
    assert list(path.parent.iterdir()) == [path]


def test_redirections_are_followed(url, tmp_path):
    assert download(f"{url}/moved", SHA256, tmp_path / "t").read_bytes() == TEXT


def test_an_existing_file_is_not_fetched_again(url, server, tmp_path):
    for _ in range(2):
        download(f"{url}/text", SHA256, tmp_path / "t")
    assert server.asked == ["/text"]


def test_a_stale_file_is_replaced(url, tmp_path):
    (tmp_path / "t").write_text("old", "utf-8")
    assert download(f"{url}/text", SHA256, tmp_path / "t").read_bytes() == TEXT


def test_a_wrong_checksum_keeps_nothing(url, tmp_path):
    with pytest.raises(ValueError, match=f"expected {'0' * 64}, got {SHA256}"):
        download(f"{url}/text", "0" * 64, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_checksum_keeps_the_old_file(url, tmp_path):
    (tmp_path / "t").write_text("old", "utf-8")
    with pytest.raises(ValueError):
        download(f"{url}/text", "0" * 64, tmp_path / "t")
    assert (tmp_path / "t").read_text("utf-8") == "old"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/nowhere", "answered 404"),
        ("/cut", "ended after|was lost"),
        ("/to-a-file", "answered 302"),
    ],
)
def test_a_failing_server_keeps_nothing(url, path, said, tmp_path):
    with pytest.raises(ConnectionError, match=said):
        download(url + path, SHA256, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_offline_says_what_to_do_instead(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:  # bound, but not listening
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/text"
        with pytest.raises(ConnectionError, match="cannot reach .* and use --text"):
            download(address, SHA256, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_times_out(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/text"
        with pytest.raises(ConnectionError):
            download(address, SHA256, tmp_path / "t", timeout=0.2)
    assert list(tmp_path.iterdir()) == []


def test_too_large_a_file_is_refused(url, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(ValueError, match="larger than 1000 bytes"):
        download(f"{url}/text", SHA256, tmp_path / "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", ["file:///etc/passwd", "ftp://host/x", "text.txt", "", "http://", "javascript:0"]
)
def test_only_web_addresses_are_fetched(wrong, tmp_path):
    with pytest.raises(ValueError, match="http:// or https://"):
        download(wrong, SHA256, tmp_path / "t")


@pytest.mark.parametrize("wrong", ["", "abc", "g" * 64, SHA256 + "0"])
def test_a_checksum_has_64_hex_digits(wrong, tmp_path):
    with pytest.raises(ValueError, match="64 hex digits"):
        download("http://127.0.0.1/x", wrong, tmp_path / "t")
