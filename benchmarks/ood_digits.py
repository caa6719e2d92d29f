"""Table 11 in small: OOD detection on the digits, trained with outliers, by method and score.

    python benchmarks/ood_digits.py --data DATA --out benchmarks/results/ood_digits.json

Needs plugins/robustlabels-ood. In-distribution: scikit-learn's digits, 8x8. Auxiliary outliers:
patches of CIFAR-10's training images (DATA/cifar10-jpeg75-train.npz), reduced to 8x8 grey pixels.
Test sets: two kinds of noise, blurred digits, MNIST's digits at 8x8 (DATA/MNIST), and patches of
scikit-learn's two photographs. Figures are means over the seeds, of the mixture of all five.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images
from torch import Tensor

import robustlabels as rl
from robustlabels.runs import versions

VS = {"name": "vs", "alpha": 0.05}
LS = {"name": "ls", "alpha": 0.05}
METHODS: dict[str, tuple[Any, Any]] = {
    "one-hot, no outliers": ("one-hot", "standard"),
    "OE": ("one-hot", "oe"),
    "OE + LS": (LS, "oe"),
    "OE + VS1": (VS, {"name": "oe", "outlier_labels": "vs1"}),
    "OE + VS2": (VS, {"name": "oe", "outlier_labels": "vs2"}),
    "SSL": ("one-hot", "ssl"),
    "SSL + LS": (LS, "ssl"),
    "SSL + VS": (VS, "ssl"),
}
SIDE = 8


def grey(x: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W), as luma."""
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)


def reduced(x: Tensor) -> Tensor:
    """(N, 1, H, W) -> (N, 1, 8, 8)."""
    small = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return small.clamp(0, 1)


def first(name: str, root: Path, n: int) -> Tensor:
    """The first n training images of a data set, float."""
    split = rl.make_dataset(name, str(root)).train_split()
    ((x, _),) = split.batches([torch.arange(n)], torch.device("cpu"))
    return x


def photographs(n: int) -> Tensor:
    """Patches of 32x32 of scikit-learn's two, evenly spread, reduced."""
    found = []
    for image in load_sample_images().images:
        x = grey(torch.from_numpy(image.copy()).permute(2, 0, 1).unsqueeze(0).float() / 255)
        patches = x.unfold(2, 32, 16).unfold(3, 32, 16).reshape(-1, 1, 32, 32)
        found.append(patches[:: max(1, len(patches) // (n // 2))][: n // 2])
    return reduced(torch.cat(found))


def test_sets(root: Path, digits: Tensor) -> dict[str, Any]:
    """What the models are to tell from digits; about as many images of each."""
    n = len(digits)
    noise = {"size": SIDE, "channels": 1, "n": n}
    return {
        "gaussian noise": {"name": "noise:gaussian", **noise},
        "rademacher noise": {"name": "noise:rademacher", **noise},
        "blurred digits": F.avg_pool2d(digits, 3, 1, 1),
        "mnist": reduced(first("mnist", root, n)),
        "photographs": photographs(n),
    }


def judged(method: str, seed: int, outliers: Tensor, sets: dict[str, Any]) -> dict[str, Any]:
    """One run, and its figures."""
    labels, trainer = METHODS[method]
    extra: dict[str, Any] = {"batch_size": 64}
    if trainer != "standard":  # as many digits in a batch, and twice as many outliers
        extra = {"batch_size": 192, "extra": outliers, "extra_fraction": 2 / 3}
    run = rl.fit(
        {"name": "small-cnn"}, "digits", labels, trainer, epochs=EPOCHS, seed=seed, device="cpu",
        validation=0, optimizer={"lr": 0.05}, **extra,
    )  # fmt: skip
    found = rl.evaluate(
        run.model, "digits", [], scheme=10,
        evaluations=["accuracy", {"name": "ood", "params": {"sets": sets}}],
    )  # fmt: skip
    return {"accuracy": found["clean"]["top1"], **found["evaluations"]["ood"]}


EPOCHS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    ((digits, _),) = rl.make_dataset("digits").test_split().batches(
        [torch.arange(360)], torch.device("cpu")
    )  # fmt: skip
    outliers = reduced(grey(first("cifar10-jpeg75", args.data, 5000)))
    sets = test_sets(args.data, digits)
    results = {
        method: [judged(method, seed, outliers, sets) for seed in range(args.seeds)]
        for method in METHODS
    }
    if args.out is not None:
        found = json.dumps({"epochs": EPOCHS, "versions": versions(), "runs": results})
        found = json.dumps(json.loads(found, parse_float=lambda text: round(float(text), 5)))
        args.out.write_text(found + "\n")
    scores = ("msp", "msp-all", "energy", "virtual")
    print("| method | accuracy |", " | ".join(scores), "|")
    print("|---|---|" + "---|" * len(scores))
    for method, runs in results.items():
        cells = [f"{100 * statistics.mean(r['accuracy'] for r in runs):.1f}"]
        for score in scores:
            of = [r["scores"][score]["mixture"] for r in runs if score in r["scores"]]
            mean = {k: 100 * statistics.mean(f[k] for f in of) for k in of[0]} if of else None
            cells.append(f"{mean['auroc']:.1f} / {mean['fpr95']:.1f}" if mean else "-")
        print("|", method, "|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
