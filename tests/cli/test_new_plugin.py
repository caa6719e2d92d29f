"""``robustlabels new-plugin``."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def test_it_says_what_to_do_next(cli: Any, tmp_path: Path) -> None:
    """The folder, what it brings, and commands that can be copied."""
    ran = cli("new-plugin", "my-labels")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "written: my-labels, with the label scheme 'my-labels-bootstrap' and the trainer "
        "'my-labels-mixed' in my_labels.py",
        "next:",
        "  cd my-labels",
        "  python -m pip install -e '.[test]'",
        "  python -m pytest",
        "  robustlabels train --labels my-labels-bootstrap --trainer my-labels-mixed --model mlp "
        "--epochs 3",
    ]
    assert (tmp_path / "my-labels" / "my_labels.py").exists()


def test_out_is_the_folder_itself(cli: Any, tmp_path: Path) -> None:
    """And one with a blank is quoted, or its ``cd`` would fail."""
    ran = cli("new-plugin", "my-labels", "--out", "a b/c")
    assert "  cd 'a b/c'" in ran.out.splitlines()
    project = tomllib.loads((tmp_path / "a b" / "c" / "pyproject.toml").read_text())
    assert project["project"]["name"] == "my-labels"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("new-plugin", "Missing argument"),
        ("new-plugin 'a b'", "must be letters, digits"),
        ("new-plugin torch", "would hide the module 'torch'"),
        ("new-plugin mine --out taken", "taken already holds files"),
        ("new-plugin mine --out taken/file", "taken/file is a file"),
        ("new-plugin mine --out taken/file/new", "cannot write to plugin folder"),
    ],
)
def test_refusals(
    cli: Any, disk: Callable[[], Any], tmp_path: Path, command: str, message: str
) -> None:
    """Exit 2, one line, nothing written."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("precious")
    before = disk()
    ran = cli(*shlex.split(command))
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert message in ran.err
    assert disk() == before
