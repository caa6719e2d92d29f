"""A plugin that fails at use ends a command in one line that names it, never in our traceback."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustlabels.cli import main

GOOD = """
from robustlabels.labels import LabelSmoothing
from robustlabels.training import PGDTraining
from robustlabels.attacks import PGD
from robustlabels.data.embedded import digits
import torch

class Scheme(LabelSmoothing):
    pass

class Trainer(PGDTraining):
    pass

class Attack(PGD):
    pass

class Model(torch.nn.Module):
    def __init__(self, num_classes, input_shape):
        super().__init__()
        self.fc = torch.nn.Linear(64, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))

def data(root=None):
    return digits()

@hookimpl
def register_schemes(register):
    register("their-scheme", Scheme)
@hookimpl
def register_trainers(register):
    register("their-trainer", Trainer)
@hookimpl
def register_attacks(register):
    register("their-attack", Attack)
@hookimpl
def register_models(register):
    register("their-model", Model)
@hookimpl
def register_datasets(register):
    register("their-data", data)
"""
TRAIN = (
    "train --dataset their-data --model their-model --labels their-scheme "
    "--trainer their-trainer --attack their-attack --epochs 1 --device cpu --out run"
)
# What is changed in GOOD, and what the line must say.
FAULTS: dict[str, tuple[str, str, list[str]]] = {
    "labels() raises": (
        "class Scheme(LabelSmoothing):\n    pass",
        "class Scheme(LabelSmoothing):\n    def labels(self, *a, **k):\n        return {}['x']",
        ["a plugin failed: KeyError: 'x' (line ", " of {module}.py (acme-things 1.2); --debug"],
    ),
    "labels() ends the process": (
        "class Scheme(LabelSmoothing):\n    pass",
        "class Scheme(LabelSmoothing):\n    def labels(self, *a, **k):\n        raise SystemExit",
        ["a plugin failed: SystemExit: no message (line ", "(acme-things 1.2)"],
    ),
    "labels() raises a ValueError": (
        "class Scheme(LabelSmoothing):\n    pass",
        "class Scheme(LabelSmoothing):\n    def labels(self, *a, **k):\n        int('x')",
        ["a plugin failed: ValueError: invalid literal", "(acme-things 1.2)"],
    ),
    "labels() returns a list": (
        "class Scheme(LabelSmoothing):\n    pass",
        "class Scheme(LabelSmoothing):\n    def labels(self, *a, **k):\n        return [1]",
        ["{module}.Scheme.labels must return a tensor", "not list"],
    ),
    "the scheme is none": (
        'register("their-scheme", Scheme)',
        'register("their-scheme", dict)',
        ["their-scheme is not a label scheme", "(registered by acme-things 1.2)"],
    ),
    "the scheme's own property raises": (
        "class Scheme(LabelSmoothing):\n    pass",
        "class Scheme(LabelSmoothing):\n    teacher = property(lambda s: 1 / 0)",
        ["a plugin failed: ZeroDivisionError: ", "(acme-things 1.2)"],
    ),
    "the factory raises": (
        "def data(root=None):\n    return digits()",
        "def data(root=None):\n    return open('/no/such/file')",
        ["data set 'their-data' of acme-things 1.2 cannot be made: FileNotFoundError"],
    ),
    "setup() raises": (
        "class Trainer(PGDTraining):\n    pass",
        "class Trainer(PGDTraining):\n    def setup(self, run):\n        run.epochs",
        ["AttributeError: 'Run' object has no attribute 'epochs'", "(acme-things 1.2)"],
    ),
    "loss() raises within torch": (
        "class Trainer(PGDTraining):\n    pass",
        "class Trainer(PGDTraining):\n    def loss(self, step):\n        return step.x @ step.y",
        ["a plugin failed: RuntimeError: ", "(acme-things 1.2)"],
    ),
    "loss() returns a number": (
        "class Trainer(PGDTraining):\n    pass",
        "class Trainer(PGDTraining):\n    def loss(self, step):\n        return 1.0",
        ["AttributeError: 'float' object", "trainer 'their-trainer' of acme-things 1.2"],
    ),
    "the attack raises": (
        "class Attack(PGD):\n    pass",
        "class Attack(PGD):\n    def __call__(self, model, x, y):\n        raise IndexError",
        ["a plugin failed: IndexError: no message", "(acme-things 1.2)"],
    ),
    "the model raises": (
        "return self.fc(x.flatten(1))",
        "raise NameError('y')",
        ["a plugin failed: NameError: y", "(acme-things 1.2)"],
    ),
    "the model raises what a misfit raises": (
        "return self.fc(x.flatten(1))",
        "raise TypeError('no')",
        ["does not take inputs of shape (1, 8, 8)", "no (line ", "(acme-things 1.2)"],
    ),
    "the data set is none": (
        "def data(root=None):\n    return digits()",
        "def data(root=None):\n    return []",
        ["their-data is not a data set: []", "(registered by acme-things 1.2)"],
    ),
}


@pytest.fixture
def cli(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], tuple[object, str]]:
    """Runs a command in an empty folder; gives the exit code and what is on stderr."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))

    def run(command: str) -> tuple[object, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as info:
            main(shlex.split(command))
        return info.value.code, capsys.readouterr().err

    return run


def test_the_good_one_trains(installed: Any, cli: Any) -> None:
    """The faults below are of what they change, not of what they leave."""
    installed.add("acme-things", GOOD)
    assert cli(TRAIN) == (0, "")


@pytest.mark.parametrize("fault", FAULTS)
def test_one_line_that_names_the_plugin(installed: Any, cli: Any, fault: str) -> None:
    """A traceback through our engine would be reported to us; the exit code 1 is our own faults'.
    What is left on the disk must not be in the way of the corrected command."""
    old, new, parts = FAULTS[fault]
    assert GOOD.count(old) == 1
    module = installed.add("acme-things", GOOD.replace(old, new))
    code, err = cli(TRAIN)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    for part in parts:
        assert part.format(module=module) in err
    assert not Path("run").exists()


def test_debug_shows_the_traceback(installed: Any, cli: Any) -> None:
    """The author's own view: the exception as it was raised."""
    old, new, _ = FAULTS["labels() raises"]
    installed.add("acme-things", GOOD.replace(old, new))
    with pytest.raises(KeyError, match="'x'"):
        main(shlex.split(f"--debug {TRAIN}"))


def test_the_other_plugins_work(installed: Any, cli: Any) -> None:
    """One distribution's fault is no other's."""
    old, new, _ = FAULTS["labels() raises"]
    installed.add("acme-things", GOOD.replace(old, new))
    installed.add("zeta", GOOD.replace("their-", "my-"))
    assert cli(TRAIN)[0] == 2
    assert cli(TRAIN.replace("their-", "my-")) == (0, "")


def test_at_evaluation(installed: Any, cli: Any) -> None:
    """An attack that fails after hours must not look as if ours had."""
    old, new, _ = FAULTS["the attack raises"]
    installed.add("acme-things", GOOD.replace(old, new))
    assert cli("train --model linear --trainer standard --epochs 1 --out run")[0] == 0
    code, err = cli("evaluate run --attacks pgd,their-attack --n 8")
    assert code == 2
    assert err.startswith("robustlabels: a plugin failed: IndexError: no message (line ")
    assert "(acme-things 1.2)" in err
    assert not Path("run/evaluation.json").exists()


def test_a_value_that_a_plugin_refuses(installed: Any, cli: Any) -> None:
    """The user's mistake, in the words of the plugin, and where they come from."""
    installed.add("acme-things", GOOD)
    code, err = cli(f"{TRAIN} --set labels.alpha=7")
    assert code == 2
    assert "alpha must be a number in [0, 1], not 7" in err


def test_a_fault_of_ours_is_still_a_traceback(
    installed: Any, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plugins installed but not used, nobody else is to blame."""
    from robustlabels.training.stepping import Stepper

    def broken(*_: Any) -> None:
        raise RuntimeError("ours")

    installed.add("acme-things", GOOD)
    monkeypatch.setattr(Stepper, "take", broken)
    with pytest.raises(RuntimeError, match="ours"):
        main(shlex.split("train --model linear --epochs 1 --out run"))
