"""``robustlabels submit``: the folder goes through RobustBench's own ``load_model`` and
``benchmark``, and gives the figures that were submitted."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustlabels.leaderboard import refresh
from robustlabels.loading import load_run

RIGHT, N = 16, 10_000
# CIFAR-10's layout, with the MD5 sums of the staged files for the published ones.
STAGED = """
import hashlib, sys
from pathlib import Path
from torchvision.datasets import CIFAR10

folder = Path("data", CIFAR10.base_folder)
sums = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
CIFAR10.train_list = [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)]
CIFAR10.test_list = [["test_batch", sums["test_batch"]]]
CIFAR10.meta = {**CIFAR10.meta, "md5": sums["batches.meta"]}
"""
COMMAND = STAGED + "from robustlabels.cli import main; main(sys.argv[1:])"
BENCHMARK = (
    STAGED
    + """
import json, torch
from robustlabels.evaluation.robustbench import benchmark, load_model
from robustlabels.models.exporting import enter

enter("submission/model_zoo_entry.py")
model = load_model("Doe2026Labels", "submission/models", "cifar10", "Linf")
x = torch.load("submission/adversarial.pt", weights_only=True)
with torch.no_grad():
    held = [int(i) for i in model(x).argmax(1)]
settings = {"n_examples": 10_000, "dataset": "cifar10", "threat_model": "Linf", "eps": "8/255"}
figures = benchmark(model, **settings, data_dir="data", batch_size=250, seed=0)
Path("benchmark.json").write_text(json.dumps({"figures": figures, "held": held}))
"""
)
CODE = '''
from collections import OrderedDict
from torch import nn


class FlatNet(nn.Sequential):
    """One linear layer on the pixels."""

    def __init__(self, num_classes):
        super().__init__(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(3072, num_classes)))
'''
OPTIONS = [
    *("--id", "Doe2026Labels", "--title", "Labels & robustness", "--authors", "J. Doe, R. Roe"),
    *("--link", "https://arxiv.org/abs/2601.00001", "--venue", "arXiv, Jan 2026"),
    *("--no-extra-data", "--synthetic", "1M", "--license", "MIT"),
    *("--audit-note", "a linear net on noise"),
    *("--code", "flat_net.py:FlatNet", "--architecture", "Linear", "--device", "cpu"),
]


@dataclass(frozen=True)
class Staged:
    """A folder with data, a run and its evaluation."""

    folder: Path
    evaluation: dict[str, Any]
    labels: list[int]

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=kept | {"CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def succeed(self, code: str, *arguments: str) -> str:
        done = self.run(code, *arguments)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout


def stage(folder: Path, name: str, pixels: np.ndarray[Any, Any], labels: list[int]) -> None:
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": labels}))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Staged:
    """10,000 images of ten patterns, weak and strong, in CIFAR-10's layout; a linear net with five
    virtual classes, trained on such images, which is right on sixteen, of which some withstand
    AutoAttack."""
    try:
        importlib.metadata.version("robustbench")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("RobustBench is not installed: pip install 'robustlabels[robustbench]'")
    root = tmp_path_factory.mktemp("submit")
    folder = root / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    draw = np.random.RandomState(0)
    patterns = draw.choice([-1.0, 1.0], (10, 32, 32, 3))

    def images(labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        strength = draw.uniform(2, 60, (len(labels), 1, 1, 1))
        noise = draw.uniform(-40, 40, (len(labels), 32, 32, 3))
        return (127 + strength * patterns[labels] + noise).astype(np.uint8)

    for i in range(1, 6):
        y = draw.randint(0, 10, 200)
        stage(folder, f"data_batch_{i}", images(y), y.tolist())
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("0123456789")}))
    y = draw.randint(0, 10, N)
    y[:10] = range(10)
    pixels = images(y)
    stage(folder, "test_batch", pixels, y.tolist())
    (root / "flat_net.py").write_text(CODE)
    made = Staged(root, {}, [])
    train = ["--dataset", "cifar10", "--data-root", "data", "--model", "linear", "--trainer"]
    train += ["standard", "--epochs", "3", "--set", "normalize=true", "--device", "cpu"]
    train += ["--labels", "vs", "--set", "labels.virtual_classes=5"]
    made.succeed(COMMAND, "train", *train, "--out", "run")
    # Nearly all images get another label than the net's: they need no attack.
    net = load_run(root / "run").model
    with torch.no_grad():
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        y = net(x)[:, :10].argmax(1).numpy()
    y[RIGHT:] = (y[RIGHT:] + 1) % 10
    stage(folder, "test_batch", pixels, y.tolist())
    made.succeed(COMMAND, "evaluate", "run", "--attacks", "autoattack", "--device", "cpu")
    evaluation = json.loads((root / "run" / "evaluation.json").read_text())
    return Staged(root, evaluation, y.tolist())


@pytest.fixture(scope="module")
def submitted(staged: Staged) -> Path:
    """The folder that the command wrote."""
    out = staged.succeed(COMMAND, "submit", "run/evaluation.json", "--out", "submission", *OPTIONS)
    *_, noted, last = out.splitlines()
    assert noted.startswith("warning: audit: not run; ")
    assert noted.endswith("; noted: a linear net on noise")
    assert last.startswith("written: submission, ")
    return staged.folder / "submission"


def test_robustbench_gets_the_same_figures(staged: Staged, submitted: Path) -> None:
    """Figures that RobustBench can't reproduce are worse than none. It sees ten logits:
    AutoAttack's own figure is that of the slice, and the images prove the minimum with AA+."""
    staged.succeed(BENCHMARK)
    found = json.loads((staged.folder / "benchmark.json").read_text())
    attack = staged.evaluation["attacks"]["autoattack"]
    assert attack["figures"]["minimum"] == attack["robust_accuracy"]
    assert found["figures"] == [staged.evaluation["clean"]["top1"], attack["figures"]["slice"]]
    assert found["figures"][0] == RIGHT / N
    assert 0 < found["figures"][1] < RIGHT / N
    # The attached images are the proof, image by image.
    held = [z == y for z, y in zip(found["held"], staged.labels, strict=True)]
    assert held == staged.evaluation["verdicts"]["autoattack"]


def test_the_leaderboard_reads_the_entry(staged: Staged, submitted: Path) -> None:
    """What RobustBench would show is what was measured and declared."""
    snapshot, findings = refresh(submitted, "2026-01-01")
    assert findings == []
    (entry,) = snapshot.entries
    assert (entry.id, entry.architecture, entry.eps) == ("Doe2026Labels", "Linear", "8/255")
    assert (entry.data, entry.title) == ("1M synthetic", "Labels & robustness")
    assert entry.clean == staged.evaluation["clean"]["top1"]
    figures = staged.evaluation["attacks"]["autoattack"]["figures"]
    assert entry.autoattack == figures["slice"]
    assert entry.robust == figures["minimum"]
    assert entry.flags == ()


def test_nothing_is_overwritten(staged: Staged, submitted: Path) -> None:
    """A folder that was sent must stay what it was."""
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in submitted.glob("*.*")}
    again = ["submit", "run/evaluation.json", "--out", "submission", *OPTIONS]
    done = staged.run(COMMAND, *again)
    assert done.returncode == 2
    assert "submission is there already" in done.stderr
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in before}


def test_other_images_are_refused(staged: Staged) -> None:
    """Adversarial images that prove another figure, and undeclared data, are told of at once."""
    x = torch.load(staged.folder / "run" / "evaluation-adversarial.pt")["autoattack"]
    robust = torch.tensor(staged.evaluation["verdicts"]["autoattack"])
    other = x.clone()
    other[robust.nonzero()[0]] = (other[robust.nonzero()[0]] + 0.2).clamp(0, 1)
    torch.save(other, staged.folder / "other.pt")
    given = [o for o in OPTIONS if o not in ("--synthetic", "1M", "--no-extra-data")]
    given += ["--adversarial", "other.pt"]
    done = staged.run(COMMAND, "submit", "run/evaluation.json", "--out", "refused", *given)
    assert done.returncode == 2
    rules = [line.split(":")[1].strip() for line in done.stdout.splitlines()[:-1]]
    assert rules[:3] == ["extra data", "synthetic data", "adversarial"]
    assert not (staged.folder / "refused").exists()
    assert not list(staged.folder.glob(".refused*"))
