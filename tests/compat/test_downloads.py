"""Without these, a web page or half a file could lie where a checkpoint belongs, and be taken for
one ever after; or a file that was exchanged could be used in the place of the one that was judged.

The servers are real ones, on this machine, and misbehave."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from robustlabels._compat.downloads import check_record, download
from robustlabels.errors import RunError

PAGE = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head>"
    b"<body>Sorry, you can't view or download this file at this time.</body></html>"
)


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(4000.0)}, buffer)
    return buffer.getvalue()


WHOLE = checkpoint()
SHA = hashlib.sha256(WHOLE).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """What it does wrong is the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        getattr(self, self.path.strip("/").replace("-", "_"))()

    def log_message(self, *_: object) -> None:
        pass

    def send(
        self, body: bytes, kind: str = "application/octet-stream", length: int | None = -1
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def good(self) -> None:
        self.send(WHOLE)

    def moved(self) -> None:
        self.send_response(303)
        self.send_header("Location", "/good")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def page(self) -> None:
        self.send(PAGE, "text/html; charset=utf-8")

    def page_as_a_file(self) -> None:
        self.send(b"\n" + PAGE)

    def half(self) -> None:
        self.send(WHOLE[:5000], length=len(WHOLE))

    def half_of_no_length(self) -> None:
        self.send(WHOLE[:5000], length=None)

    def half_in_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"1000\r\n" + WHOLE[:0x1000] + b"\r\n1000\r\n" + WHOLE[:99])
        self.close_connection = True

    def nothing(self) -> None:
        self.send(b"")

    def missing(self) -> None:
        self.send_error(404)

    def forbidden(self) -> None:
        self.send_error(403, "Quota exceeded")

    def reset(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(WHOLE)))
        self.end_headers()
        self.wfile.write(WHOLE[:1000])
        self.wfile.flush()
        # So closed, TCP sends a reset instead of an end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())
        self.close_connection = True

    def slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(WHOLE)))
        self.end_headers()
        self.wfile.write(WHOLE[:1000])
        self.wfile.flush()
        time.sleep(1.5)
        self.close_connection = True

    def mute(self) -> None:
        time.sleep(1.5)
        self.close_connection = True


class Nonsense(socketserver.BaseRequestHandler):
    """No HTTP at all."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_good_file_arrives(server: str, tmp_path: Path) -> None:
    """The folder is made, redirections (Drive has several) are followed, no byte is lost."""
    for what, sha256 in (("good", ""), ("moved", SHA), ("good", SHA[:8])):
        path = tmp_path / f"{what}{len(sha256)}" / "cifar10" / "NAME.pt"
        download(f"{server}/{what}", path, sha256)
        assert path.read_bytes() == WHOLE
        assert [p.name for p in path.parent.iterdir()] == ["NAME.pt"]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("page", "the server sent a web page (Google Drive - Quota exceeded), not the file"),
        ("page-as-a-file", "the server sent a web page (Google Drive - Quota exceeded)"),
        ("half", f"the connection ended after 5000 of {len(WHOLE)} bytes"),
        ("half-of-no-length", "the file ends too early, after 5000 bytes"),
        ("half-in-chunks", "the connection ended after "),
        ("nothing", "the connection ended after 0 of 0 bytes"),
        ("missing", "HTTP 404 Not Found"),
        ("forbidden", "HTTP 403 Quota exceeded"),
        ("reset", "Connection reset by peer"),
        ("slow", "timed out"),
        ("mute", "timed out"),
    ],
)
def test_a_bad_answer_leaves_nothing(server: str, tmp_path: Path, what: str, said: str) -> None:
    """A part of a file, or a page, would be found by the next call and taken for the checkpoint."""
    url, path = f"{server}/{what}", tmp_path / "NAME.pt"
    with pytest.raises(RunError) as caught:
        download(url, path, timeout=0.4)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    assert message.startswith("cannot fetch NAME.pt: ")
    assert f"fetch {url} by other means" in message  # the way out
    assert message.endswith(f"put the file at {path}")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_hash_leaves_nothing(server: str, tmp_path: Path) -> None:
    """What is whole may still be another file."""
    other = "0" * 64
    with pytest.raises(RunError, match=f"its sha256 is {SHA}, not {other}"):
        download(f"{server}/good", tmp_path / "NAME.pt", sha256=other)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_or_speaks_otherwise(tmp_path: Path) -> None:
    """An offline machine is the usual case; a proxy may answer anything."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Nonsense) as running:
        port = running.server_address[1]
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        with pytest.raises(RunError, match=r"cannot fetch NAME\.pt: SSH-2\.0"):
            download(f"http://127.0.0.1:{port}/good", tmp_path / "NAME.pt")
        running.shutdown()
    with pytest.raises(RunError, match="Connection refused"):
        download(f"http://127.0.0.1:{port}/good", tmp_path / "NAME.pt")
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_survives_a_bad_download(server: str, tmp_path: Path) -> None:
    """A file is replaced by a whole one or not at all."""
    path = tmp_path / "NAME.pt"
    path.write_bytes(b"old")
    with pytest.raises(RunError):
        download(f"{server}/half", path)
    assert path.read_bytes() == b"old"


def test_a_full_or_closed_disk_is_said_to_be_one(server: str, tmp_path: Path) -> None:
    """What stands in the way must be named: no other means of fetching would help."""
    (tmp_path / "models").write_text("a file")
    with pytest.raises(RunError, match=r"cannot fetch NAME\.pt: .*models"):
        download(f"{server}/good", tmp_path / "models" / "NAME.pt")


def test_the_first_use_is_recorded_and_later_ones_compared(tmp_path: Path) -> None:
    """Nobody publishes the zoo's hashes: all that can be known is that a file is the one it was."""
    path = tmp_path / "NAME.pt"
    path.write_bytes(WHOLE)
    check_record(path)
    record = tmp_path / "NAME.pt.sha256"
    assert record.read_text() == f"{SHA}  NAME.pt\n"
    subprocess.run(["sha256sum", "-c", record.name], cwd=tmp_path, check=True, capture_output=True)
    check_record(path)
    path.write_bytes(WHOLE[:-1] + b"!")
    with pytest.raises(RunError, match=r"NAME\.pt is not the file that NAME\.pt\.sha256 recorded"):
        check_record(path)
    assert record.read_text() == f"{SHA}  NAME.pt\n"
    record.unlink()  # as the message advises where the user replaced the file
    check_record(path)


def test_a_folder_that_takes_no_record_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clusters keep their models in a shared folder that is read-only."""

    def refuse(*_: object) -> None:
        raise RunError("cannot write")

    monkeypatch.setattr("robustlabels.runs.write_text", refuse)
    path = tmp_path / "NAME.pt"
    path.write_bytes(WHOLE)
    check_record(path)
    assert [p.name for p in tmp_path.iterdir()] == ["NAME.pt"]
