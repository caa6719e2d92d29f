"""Tiny tensors: more threads than one only get in each other's way."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before any test imports torch
