"""``python -m robustlabels.theory OUT``, as docs/theory.md has it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
NAMES = ["fading-gaussian.png", "discrepancy.png", "templates.png"]


def test_it_draws_what_the_page_shows(tmp_path: Path) -> None:
    """The page's figures must be those that its command draws; so must the numbers, within what
    another machine's arithmetic makes of a training (.1)."""
    out = tmp_path / "new" / "folder"
    done = subprocess.run(
        [sys.executable, "-m", "robustlabels.theory", str(out)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert done.stdout.split() == [str(out / name) for name in (*NAMES, "theory.json")]
    page = (DOCS / "theory.md").read_text()
    for name in NAMES:
        assert f"figures/{name}" in page
        assert 10_000 < len((out / name).read_bytes()) < 100_000
        assert (DOCS / "figures" / name).exists()
    numbers = json.loads((out / "theory.json").read_text())
    kept = json.loads((DOCS / "evidence" / "theory.json").read_text())
    assert _apart(numbers, kept) < 0.1


def _apart(a: object, b: object) -> float:
    """The greatest relative distance of two JSON values' numbers; infinite if they are no twins."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return max((_apart(a[k], b[k]) for k in a), default=0.0)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return max((_apart(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(a - b) / max(abs(b), 0.1)
    return 0.0 if a == b else float("inf")
