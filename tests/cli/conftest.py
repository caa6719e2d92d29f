"""What the tests of the command line share: it runs in this process, in an empty folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from robustlabels.cli import main

QUICK = ("--model", "linear", "--trainer", "standard", "--epochs", "1", "--device", "cpu")


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: object
    out: str
    err: str


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs ``robustlabels ARGUMENTS`` in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main(list(arguments))
        return Ran(info.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def train(cli: Callable[..., Ran]) -> Callable[..., Path]:
    """Trains a linear model for an epoch, which must succeed; returns the RUN folder."""

    def run(out: str, *arguments: str, quick: bool = True) -> Path:
        ran = cli("train", *(QUICK if quick else ()), *arguments, "--out", out)
        assert ran.code == 0, ran.err
        assert ran.err == ""
        return Path(out).resolve()

    return run


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.raises(SystemExit) as info:
        main(["train", *QUICK, "--out", str(folder)])
    assert info.value.code == 0
    return folder


@pytest.fixture
def run(_finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, as ``run`` in the test's folder."""
    return Path(shutil.copytree(_finished, tmp_path / "run"))


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """Everything in the test's folder, with hashes."""

    def look() -> dict[str, str]:
        return {
            str(p.relative_to(tmp_path)): hashlib.sha256(p.read_bytes()).hexdigest()
            if p.is_file()
            else "folder"
            for p in tmp_path.rglob("*")
        }

    return look
