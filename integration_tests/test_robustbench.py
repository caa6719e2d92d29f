"""The real RobustBench beside the newest setuptools and torchattacks, as pip installs them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.install

STAGE = """
import hashlib, json, pickle, sys
from pathlib import Path
import numpy as np, torch
from torchvision.datasets import CIFAR10
import robustlabels as rl
from robustlabels.attacks.official_autoattack import AutoAttack
from robustlabels.evaluation.robustbench import benchmark, load_model

torch.manual_seed(0)
NAME = "robustbench:cifar10/L2/Rice2020Overfitting"
net = rl.make_model(NAME, 10, (3, 32, 32), pretrained=False)
path = Path("models/cifar10/L2/Rice2020Overfitting.pt")
path.parent.mkdir(parents=True, exist_ok=True)
state = {k: v for k, v in net.state_dict().items() if k not in ("mu", "sigma")}
torch.save(state, path)
tiles = np.random.RandomState(0).randint(0, 256, (20, 4, 4, 3)) * 0.6 + 50
pixels = tiles.astype(np.uint8).repeat(8, 1).repeat(8, 2)
x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255

def stage(y):
    # CIFAR-10's layout, with the MD5 sums of these files for the published ones
    folder = Path("data", CIFAR10.base_folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = pixels.transpose(0, 3, 1, 2).reshape(20, -1)
    sums = {}
    for name, content in (("test_batch", {"data": rows, "labels": y.tolist()}),
                          ("batches.meta", {"label_names": list("0123456789")})):
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    CIFAR10.train_list, CIFAR10.test_list = [], [["test_batch", sums["test_batch"]]]
    CIFAR10.meta = {**CIFAR10.meta, "md5": sums["batches.meta"]}

def wrong(y, right):
    y = y.clone()
    y[right:] = (y[right:] + 1) % 10
    return y
"""

LOADS = """
loaded = load_model("Rice2020Overfitting", threat_model="L2")
with torch.no_grad():
    assert torch.equal(loaded(x), net(x))
print("same")
"""

JUDGES = """
def both(model, y, threat, eps):
    stage(y)
    ours = AutoAttack(eps, threat, seed=0, batch_size=16).run(model, x, y)
    theirs = benchmark(model, 20, "cifar10", threat, device="cpu", batch_size=16, eps=eps)
    return ours.clean_accuracy, int(ours.robust.sum()) / 20, *theirs

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(48, 10)
    def forward(self, x):
        return self.head(torch.nn.functional.avg_pool2d(x, 8).flatten(1) - 0.5)

tiny = Tiny().eval()
zoo = load_model("Rice2020Overfitting", threat_model="L2")
with torch.no_grad():
    found = [both(tiny, wrong(tiny(x).argmax(1), 15), "Linf", 6.5 / 255),
             both(zoo, wrong(zoo(x).argmax(1), 2), "L2", 0.5)]
Path("found.json").write_text(json.dumps(found))
"""

OUTSIDE = "print(__import__('robustbench').__file__)"


@pytest.fixture(scope="module")
def environment(make_environment: Callable[[str], Any]) -> Any:
    made = make_environment("robustbench")
    made.run("python", "-m", "pip", "install", "--upgrade", "pip", "setuptools")
    made.run("python", "-m", "pip", "install", "robustbench>=1.1.1")
    # Its own copy, also where the running environment has one: a test overwrites it.
    made.run("python", "-m", "pip", "install", "--force-reinstall", "--no-deps", "robustbench")
    return made


def test_it_does_not_import_by_itself(environment: Any) -> None:
    """If it does one day, the stand-ins are in the way: this is how we notice."""
    for module in ("robustbench", "pkg_resources", "autoattack"):
        failed = environment.run("python", "-c", f"import {module}", check=False)
        assert "ModuleNotFoundError" in failed.stderr


def test_a_staged_checkpoint_loads(environment: Any) -> None:
    """The weights in RobustBench's folder are those of the model that is judged."""
    assert environment.python(STAGE + LOADS).endswith("same\n")


def test_the_figures_are_autoattacks(environment: Any) -> None:
    """With AutoAttack's whole budget, for a small net of which some images hold, and for one of the
    zoo: the same images, seed and batch size must give what our own adapter gives."""
    environment.python(STAGE + JUDGES)
    found = json.loads((environment.folder / "found.json").read_text())
    for clean, robust, *theirs in found:
        assert theirs == [clean, robust]
        assert clean > robust
    assert found[0][1] > 0


def test_the_zoo_by_name_on_the_command_line(environment: Any) -> None:
    """As a teacher and as the start of training; a misspelt name is one line."""
    environment.python(
        STAGE + "y = np.arange(20) % 10\n"
        "np.savez('some.npz', x_train=pixels.transpose(0, 3, 1, 2), y_train=y,"
        " x_test=pixels.transpose(0, 3, 1, 2), y_test=y)"
    )
    name = "robustbench:cifar10/L2/Rice2020Overfitting"
    train = ["robustlabels", "train", "--dataset", "npz:some.npz", "--trainer", "standard"]
    train = ["python", "-m", *train, "--epochs", "1", "--batch-size", "8"]
    for out, options in {
        "taught": ["--model", "small-cnn", "--labels", "ltd", "--teacher", name],
        "started": ["--model", name, "--labels", "vs"],
    }.items():
        environment.run(*train, *options, "--out", out)
    (environment.folder / "models" / "cifar10" / "L2" / "Rice2020Overfitting.pt").unlink()
    judge = ["python", "-m", "robustlabels", "evaluate", "started", "--attacks", "fgsm", "--json"]
    judged = json.loads(environment.run(*judge).stdout)
    assert judged["virtual_classes"] == 10
    failed = environment.run(*train, "--model", f"{name}s", "--out", "x", check=False)
    assert failed.returncode == 2
    assert "did you mean 'Rice2020Overfitting'" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_torchattacks_installed_after_it(environment: Any) -> None:
    """It overwrites RobustBench with an old copy; the advice brings the real one back, and
    torchattacks goes on to work."""
    install = ["python", "-m", "pip", "install", "--force-reinstall", "--no-deps"]
    environment.run(*install, "torchattacks==3.5.1")
    failed = environment.run("python", "-c", STAGE, check=False)
    last = failed.stderr.strip().splitlines()[-1]
    assert "is overwritten by the old package robustbench that torchattacks" in last
    examined = environment.run("python", "-m", "robustlabels", "doctor", "--json").stdout
    (extra,) = (e for e in json.loads(examined)["extras"] if e["extra"] == "robustbench")
    assert last.endswith(f"{extra['state']}: run  {extra['command']}")
    environment.run(*extra["command"].split())
    assert environment.python(STAGE + LOADS).endswith("same\n")
    environment.python("import torchattacks; torchattacks.PGD(__import__('torch').nn.Identity())")
