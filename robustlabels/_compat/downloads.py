"""Checkpoints from the net: whole, and what was asked for, or not at all.

robustbench 1.1.1 saves what gdown gets, unchecked. Symptoms: Google Drive's page "quota exceeded"
lies there as NAME.pt, and every load after it fails with ``invalid load key, '<'``; a lost
connection leaves half a file. timm 1.0.9, which fetches the rest of the zoo, doesn't check either.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from robustlabels import runs
from robustlabels.errors import RunError

_CHUNK = 1 << 20
_ZIP, _ZIP_END = b"PK\x03\x04", b"PK\x05\x06"  # what torch.save writes is a zip archive
_TITLE = re.compile(rb"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)


class _RefusedError(Exception):
    """Why what the server sends is not the file."""


def download(url: str, path: Path, sha256: str = "", timeout: float = 60.0) -> None:
    """Fetch a checkpoint into a new file. Whatever goes wrong, nothing is left behind.

    Args:
        url: where it is.
        path: the file to make; its folder is made too.
        sha256: the hash that it must have, or how that begins; empty where nobody knows it.
        timeout: seconds without an answer after which to give up.

    Raises:
        RunError: it can't be had, is a web page, is cut short, or has another hash; the message
            says where to put a file that was fetched by other means.
    """
    print(f"robustlabels: fetching {path} from {url}", file=sys.stderr, flush=True)
    # Drive serves a robot less willingly than a browser.
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (robustlabels)"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            _refuse_a_page(answer.headers.get_content_type() == "text/html", answer)
            path.parent.mkdir(parents=True, exist_ok=True)
            with runs.atomic_file(path) as file:
                _save(answer, file, sha256)
    except (_RefusedError, urllib.error.HTTPError, http.client.HTTPException, OSError) as error:
        raise RunError(
            f"cannot fetch {path.name}: {_reason(error)}; fetch {url} by other means, e.g. in a "
            f"browser, and put the file at {path}"
        ) from error


def check_record(path: Path) -> None:
    """Compare a file with the hash that was recorded when it was first used; record it if none was.

    The record lies beside it as NAME.sha256, in the form that ``sha256sum -c`` reads.

    Raises:
        RunError: the file is not the recorded one.
    """
    record, found = path.with_name(f"{path.name}.sha256"), runs.sha256(path)
    if not record.exists():
        with contextlib.suppress(RunError):  # a folder that is shared and read-only keeps none
            runs.write_text(record, f"{found}  {path.name}\n")
    elif found not in record.read_text(encoding="utf-8", errors="replace").split():
        raise RunError(
            f"{path} is not the file that {record.name} recorded (its sha256 is {found}): delete "
            f"{path.name} to fetch it again, or {record.name} if you replaced it"
        )


def _save(answer: http.client.HTTPResponse, file: IO[bytes], sha256: str) -> None:
    """The body into the file, checked as it comes. What the server does wrong is no OSError here,
    for that would be taken for the disk's."""
    digest, length, start, end = hashlib.sha256(), 0, b"", b""
    while chunk := _read(answer):
        if length == 0:
            _refuse_a_page(chunk.lstrip()[:1] == b"<", answer, chunk)
            start = chunk[: len(_ZIP)]
        digest.update(chunk)
        file.write(chunk)
        length += len(chunk)
        end = (end + chunk)[-_CHUNK:]
    promised = answer.headers.get("Content-Length")
    if length == 0 or (promised is not None and length != int(promised)):
        raise _RefusedError(f"the connection ended after {length} of {promised or 'some'} bytes")
    if start == _ZIP and _ZIP_END not in end:
        raise _RefusedError(f"the file ends too early, after {length} bytes")
    if not digest.hexdigest().startswith(sha256):
        raise _RefusedError(f"its sha256 is {digest.hexdigest()}, not {sha256}")


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read(_CHUNK)
    except (http.client.HTTPException, OSError) as error:
        raise _RefusedError(_reason(error)) from error


def _refuse_a_page(page: bool, answer: http.client.HTTPResponse, begun: bytes = b"") -> None:
    if page:
        title = _TITLE.search(begun + _read(answer))
        shown = f" ({' '.join(title[1].decode(errors='replace').split())})" if title else ""
        raise _RefusedError(f"the server sent a web page{shown}, not the file")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended after {len(error.partial)} bytes"
    return str(error) or type(error).__name__
