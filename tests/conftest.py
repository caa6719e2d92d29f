"""One thread: sums are in the same order on every machine, and tiny tensors need no more."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before any test imports torch; child processes have it too

# Tests on real data skip where this folder lacks them.
SHARED = Path(__file__).parents[2] / "shared" / "data"
os.environ.setdefault("ROBUSTLABELS_TEST_DATA", str(SHARED))
