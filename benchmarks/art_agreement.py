"""One MNIST run, twice: ART's own TRADES trainer with `with_labels`, and `LabelTrainer`.

    python benchmarks/art_agreement.py --data ../shared/data [--labels vs] [--out FILE.json]

The same CNN, images, label scheme, beta, attack (PGD on the cross-entropy from a random start) and
optimizer; then clean accuracy, and accuracy under our PGD-20 on the test images. The two must be
within two points of each other: exit 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.trainer import AdversarialTrainerTRADESPyTorch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.integrations.art import LabelTrainer, with_labels

EPS, STEPS, BETA = 0.2, 7, 3.0
STEP_SIZE = 2.5 * EPS / STEPS
POINTS = 0.02


class TwoConvolutions(nn.Module):
    """Two convolutions with pooling, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.fc1 = nn.Linear(32 * 49, 100)
        self.fc = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc1(self.features(x).flatten(1)).relu())


def classifier(seed: int) -> PyTorchClassifier:
    torch.manual_seed(seed)
    np.random.seed(seed)
    model = TwoConvolutions()
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 28, 28),
        10,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        clip_values=(0.0, 1.0),
    )


def train(kind: str, options: Any, x: np.ndarray, y: np.ndarray) -> PyTorchClassifier:
    c = classifier(options.seed)
    schedule = torch.optim.lr_scheduler.MultiStepLR(c.optimizer, [max(1, options.epochs - 1)], 0.1)
    if kind == "LabelTrainer":
        attack = {"name": "pgd", "steps": STEPS, "step_size": STEP_SIZE}
        objective = {"name": "trades", "beta": BETA, "inner": "ce"}
        attack |= {"start": "uniform", "loss": "ce"}
        trainer = LabelTrainer(c, options.labels, objective, attack, EPS)
        trainer.fit(x, y, nb_epochs=options.epochs, scheduler=schedule)
        return c
    attack = ProjectedGradientDescent(
        c, eps=EPS, eps_step=STEP_SIZE, max_iter=STEPS, num_random_init=1, batch_size=128,
        verbose=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = with_labels(AdversarialTrainerTRADESPyTorch(c, attack, BETA), options.labels)
    trainer.fit(x, y, nb_epochs=options.epochs, scheduler=schedule)
    return c


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--labels", default="vs")
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--n", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.getLogger("art").setLevel(logging.ERROR)
    data = rl.make_dataset("mnist", root=options.data)
    index = torch.arange(options.images)
    ((images, labels),) = data.train_split().batches([index], torch.device("cpu"))
    x, y = images.numpy(), labels.numpy()
    rows = {}
    for kind in ("ART TRADES, with_labels", "LabelTrainer"):
        start = time.perf_counter()
        c = train(kind, options, x, y)
        spent = time.perf_counter() - start
        judged = rl.evaluate(
            c.model,
            data,
            attacks=[{"name": "pgd", "params": {"steps": 20}}],
            eps=EPS,
            n=options.n,
            scheme=10,
            evaluations=["accuracy"],
        )
        rows[kind] = {
            "clean": judged["clean"]["top1"],
            "PGD-20": judged["robust_accuracy"],
            "seconds": round(spent, 1),
        }
        print(kind, rows[kind], flush=True)
    a, b = rows.values()
    apart = {k: abs(a[k] - b[k]) for k in ("clean", "PGD-20")}
    result = {
        "what": "MNIST, two-convolution CNN, TRADES (beta 3), PGD-7 at eps .2 on cross-entropy",
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()},
        "versions": {
            n: version(n) for n in ("torch", "adversarial-robustness-toolbox", "robustlabels")
        },
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "rows": rows,
        "apart": apart,
    }
    result["options"].pop("out"), result["options"].pop("data")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(apart))
    return int(max(apart.values()) > POINTS)


if __name__ == "__main__":
    sys.exit(main())
