"""ALPS's baselines and checks, and VS's augmentation, on real data at small size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import robustlabels as rl
from robustlabels.factories import make_dataset

DATA = Path(os.environ["ROBUSTLABELS_TEST_DATA"])


def robustlabels(*arguments: str) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "robustlabels", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason="needs MNIST in ROBUSTLABELS_TEST_DATA")
def test_alps_section_5_on_mnist(tmp_path: Path) -> None:
    """What its tables 5 and 6 show on any data: inputs made on an ERM model harm another model, and
    less than its own do; and unbounded PGD leaves nothing."""
    file = tmp_path / "mnist.npz"
    data = make_dataset("mnist", str(DATA))
    arrays = {}
    for name, split, count in (
        ("train", data.train_split(), 6000),
        ("test", data.test_split(), 500),
    ):
        ((x, y),) = split.batches([torch.arange(count)], torch.device("cpu"))
        arrays |= {f"x_{name}": x.numpy(), f"y_{name}": y.numpy()}
    np.savez(file, **arrays)
    common = ("--dataset", f"npz:{file}", "--model", "lenet", "--trainer", "standard")
    common += ("--epochs", "3", "--batch-size", "32", "--eps", "0.15", "--device", "cpu")
    common += ("--set", "optimizer.lr=0.02")
    erm, dropout = str(tmp_path / "erm"), str(tmp_path / "dropout")
    robustlabels("train", *common, "--seed", "1", "--out", erm)
    robustlabels("train", *common, "--set", "dropout=0.5", "--out", dropout)
    by_transfer = [
        f"{{ name = 'transfer:{name}', source = '{erm}'{more} }}"
        for name, more in (("fgsm", ""), ("pgd", ", steps = 10"))
    ]
    robustlabels(
        *("evaluate", dropout, "--attacks", "fgsm,pgd", "--device", "cpu"),
        *("--attack", by_transfer[0], "--attack", by_transfer[1]),
        *("--evaluation", "{ name = 'unbounded-pgd', n = 50 }"),
    )
    found: dict[str, Any] = json.loads((tmp_path / "dropout" / "evaluation.json").read_text())
    clean = found["clean"]["top1"]
    assert clean > 0.95
    left = {name: attack["robust_accuracy"] for name, attack in found["attacks"].items()}
    for name in ("fgsm", "pgd"):
        assert left[name] < left[f"transfer:{name}"] < clean
        told = found["attacks"][f"transfer:{name}"]["source"]
        assert told["clean"] > 0.95
        assert told["robust_accuracy"] < left[f"transfer:{name}"]
    assert found["robust_accuracy"] <= left["pgd"]
    unbounded = found["evaluations"]["unbounded-pgd"]
    assert unbounded["accuracy"] <= 0.02
    assert unbounded["passed"]
    assert 0.02 < unbounded["mean_linf"] < 0.4


def test_vs_with_mixup_and_randaugment_learns() -> None:
    """VS's ViT settings, on digits and a small net: labels that do not fit the images that are fed
    would leave it at chance."""
    result = rl.fit(
        {"name": "small-cnn", "width": 16},
        "digits",
        {"name": "vs", "alpha": 0.4, "inner": {"name": "mixup", "alpha": 0.8}},
        "standard",
        epochs=8,
        batch_size=64,
        optimizer={"name": "adamw", "lr": 0.005},
        schedule={"name": "cosine"},
        augment={"randaugment": (2, 9)},
        device="cpu",
    )
    assert result.test_accuracy is not None
    assert result.test_accuracy > 0.9
