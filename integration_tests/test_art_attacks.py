"""docs/art-attacks.md: its code runs as it stands there, and its tables are measured again."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("art")


from robustlabels.attacks._art_members import MEMBERS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "art-attacks.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "benchmarks" / "art_attacks_table.py"
    spec = importlib.util.spec_from_file_location("art_attacks_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def subjects(script: ModuleType) -> Any:
    with script.quiet():
        return script.subjects()


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_the_table_says_what_happens(name: str, script: ModuleType, subjects: Any) -> None:
    """A page that promises what an attack no longer does, or warns of what is mended."""
    (shown,) = [r for r in script.parsed(PAGE, "attacks") if r["attack"] == f"`{name}`"]
    with script.quiet():
        measured = dict(zip(script.COLUMNS, script.row(name, *subjects), strict=True))
    if measured["norms"] == "?":
        pytest.skip(measured["remark"])
    assert {c: shown[c] for c in script.STABLE} == {c: measured[c] for c in script.STABLE}
    assert shown["training"] == script.yes(MEMBERS[name].for_training)
    assert shown["soft labels"] == script.yes(MEMBERS[name].soft)


def test_conjugate_gradients_are_weak_for_linf(script: ModuleType) -> None:
    """Why they are refused there: else they may be allowed."""
    with script.quiet():
        found = {row[0]: row[1] for row in script.strength()}
    best = float(found["`art:AutoProjectedGradientDescent`"])
    for name in script.CONJUGATE:
        assert float(found[f"`{name}`, as ART has it"]) >= best + 0.05


def test_the_code_of_the_page(capsys: Any) -> None:
    """The first thing that a reader tries."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(block, names)
    assert names["found"]["attacks"]["art:HopSkipJump"]["robust_accuracy"] < 1
    assert "HopSkipJump" in capsys.readouterr().out
