"""``robustlabels leaderboard`` as a process, and out of a wheel."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "robustlabels", "leaderboard"]
BUILD = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"


def run(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "COLUMNS")}
    return subprocess.run(
        command,
        cwd=folder,
        env=kept | env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_it_starts_at_once(tmp_path: Path) -> None:
    """It reads one small file: whoever waits for it waits for an import that it doesn't need."""
    # Its own time, not the clock's: other processes may have the cores.
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run(COMMAND, tmp_path).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1


def test_a_narrow_terminal_does_not_fold_a_pipe(tmp_path: Path) -> None:
    """grep must find a model's whole row."""
    out = run(COMMAND, tmp_path, COLUMNS="40").stdout
    row = next(line for line in out.splitlines() if "Chen2021LTD_WRN34_20" in line)
    assert row.split()[:5] == ["41", "Chen2021LTD_WRN34_20", "86.03%", "57.71%", "57.71%"]


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """``| head -1`` is no error."""
    piped = f"{' '.join(COMMAND)} | head -1"
    done = run(["bash", "-o", "pipefail", "-c", piped], tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("RobustBench cifar10 Linf")


def test_the_wheel_has_the_facts(tmp_path: Path) -> None:
    """package-data is easily forgotten, and an editable installation doesn't notice."""
    pytest.importorskip("setuptools")
    ignored = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info", "build")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=ignored)
    built = run([sys.executable, "-c", BUILD], source)
    assert built.returncode == 0, built.stderr[-2000:]
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(source / built.stdout.splitlines()[-1]) as wheel:
        wheel.extractall(unpacked)
    where = "import robustlabels; print(robustlabels.__file__)"
    found = run([sys.executable, "-c", where], tmp_path, PYTHONPATH=str(unpacked)).stdout
    assert Path(found.strip()).is_relative_to(unpacked)
    done = run([*COMMAND, "--json"], tmp_path, PYTHONPATH=str(unpacked))
    assert len(json.loads(done.stdout)["entries"]) == 99
