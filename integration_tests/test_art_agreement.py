"""Both doors to ART lead to the same place: benchmarks/art_agreement.py on part of MNIST."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])


@pytest.mark.skipif(not (DATA / "MNIST").is_dir(), reason="needs MNIST in ROBUSTLABELS_TEST_DATA")
def test_art_with_labels_and_label_trainer_agree(tmp_path: Path) -> None:
    """The same labels, attack and optimizer through ART's TRADES and through our engine: more than
    two points apart would mean that one of them trains something else."""
    options = ["--images", "6000", "--epochs", "3", "--n", "2000"]
    done = subprocess.run(
        [sys.executable, "benchmarks/art_agreement.py", "--data", str(DATA), *options,
         "--out", str(tmp_path / "result.json")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
