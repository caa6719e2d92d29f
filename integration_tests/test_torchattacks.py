"""docs/torchattacks.md's table, measured again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("torchattacks")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "torchattacks_table.py"


def test_the_table_is_still_true() -> None:
    """The day torchattacks mends something, or breaks it, the page and our lists must follow."""
    spec = importlib.util.spec_from_file_location("torchattacks_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    networks = script.subjects()
    rows = [dict(zip(script.COLUMNS, script.row(n, *networks), strict=True)) for n in script.NAMES]
    page = script.parsed(script.PAGE.read_text(encoding="utf-8"), "attacks")
    changed = [
        f"{written['attack']}, {column}: {written[column]} on the page, now {row[column]}"
        for row, written in zip(rows, page, strict=True)
        for column in script.STABLE
        if row[column] != written[column]
    ]
    assert not changed, f"run  python {SCRIPT.name}  again: {'; '.join(changed)}"
