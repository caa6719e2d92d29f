"""One thread: sums are in the same order on every machine, and tiny tensors need no more."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before any test imports torch; child processes have it too
