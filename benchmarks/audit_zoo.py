"""Models that mask, and honest ones, for benchmarks/audit_confusion.py and the tests of the audit.

All are LeNets on MNIST, trained in a minute or two on 12,000 images and kept as RUN folders, so
that a second call trains nothing. ``built(name, folder)`` gives one of them. What masks is put in
front of, inside or behind an honest net, or is the way in which it was trained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlabels as rl
from robustlabels import runs
from robustlabels.factories import make_dataset, make_model
from robustlabels.loading import load_run
from robustlabels.randomness import preserved, seed_everything

DATA = Path(__file__).parents[2] / "shared" / "data"
EPS, K, IMAGES = 0.2, 10, 12_000
SHAPE = (1, 28, 28)
AT = {"name": "pgd", "steps": 7}

TRAINED: dict[str, dict[str, Any]] = {
    "natural": {"trainer": "standard", "epochs": 8},
    "ls": {"trainer": "standard", "epochs": 8, "scheme": {"name": "ls", "alpha": 0.1}},
    "als": {"trainer": "standard", "epochs": 8, "scheme": {"name": "als", "alpha": 0.3}},
    "pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT},
    "trades": {"trainer": "trades", "epochs": 8, "attack": {**AT, "loss": "kl"}},
    "vs": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "vs", "alpha": 0.6}},
    "ls-pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "ls"}},
    "als-pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "als"}},
    "adr-pgd": {"trainer": "pgd-at", "epochs": 10, "attack": AT, "scheme": {"name": "adr"}},
    "fast": {"trainer": "fast-at", "epochs": 10},
}


def data(n: int | None = None) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test images, (N, 1, 28, 28) in [0, 1], drawn by seed 0."""
    mnist = make_dataset("mnist", str(DATA))

    def drawn(split: Any, count: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]
        parts = list(split.batches([order], torch.device("cpu")))
        return parts[0]

    return drawn(mnist.train, IMAGES), drawn(mnist.test_split(), n or 200)


def trained(name: str, folder: Path) -> nn.Module:
    """A net of TRAINED, with all its outputs; trained where ``folder`` does not have it yet."""
    out = folder / name
    options = dict(TRAINED[name])
    if not (out / runs.BEST).exists() or runs.RunFolder.open(out).summary["status"] != "finished":
        train, _ = data()
        rl.fit(
            "lenet",
            train,
            eps=EPS,
            out=out,
            resume=(out / runs.CONFIG).exists(),
            batch_size=100,
            optimizer={"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4},
            schedule={"name": "cosine"},
            **options,
        )
    return load_run(out).model
