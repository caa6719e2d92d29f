"""A third party's plugin, really installed with pip into a fresh environment, and used."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.install

PYPROJECT = """
[build-system]
requires = ["setuptools>=64"]
build-backend = "setuptools.build_meta"

[project]
name = "shy-labels"
version = "0.3.1"
description = "A label scheme for people who do not shout."
dependencies = ["robustlabels", "torch"]

[project.entry-points.robustlabels]
shy = "shy_labels"

[tool.setuptools]
py-modules = ["shy_labels"]
"""

MODULE = '''
"""Labels that shrink from confident predictions; no base class of robustlabels is used."""

import torch
import robustlabels


class ShyHot:
    """(1 - s p_y) e_y + s p_y / K, with p_y the model's own confidence."""

    needs = frozenset({"logits"})

    def __init__(self, num_classes, shyness=0.2):
        if not 0 <= shyness <= 1:
            raise ValueError(f"shyness must be in [0, 1], not {shyness!r}")
        self.num_classes = self.num_outputs = num_classes
        self.shyness = shyness

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        with torch.no_grad():
            hot = torch.nn.functional.one_hot(y, self.num_classes).to(logits)
            own = (logits.softmax(1) * hot).sum(1, keepdim=True) * self.shyness
            return ((1 - own) * hot + own / self.num_classes).detach()


@robustlabels.hookimpl
def register_schemes(register):
    register("shy-hot", ShyHot)
'''


@pytest.fixture(scope="module")
def environment(make_environment: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory):
    """A fresh environment with the plugin in it, installed from its folder as a user would."""
    source = tmp_path_factory.mktemp("shy-labels")
    (source / "pyproject.toml").write_text(PYPROJECT)
    (source / "shy_labels.py").write_text(MODULE)
    fresh = make_environment("fresh")
    before = fresh.python("import robustlabels as rl; print(*rl.list_schemes())")
    assert "shy-hot" not in before.split()
    assert "vs" in before.split()
    fresh.run("python", "-m", "pip", "install", str(source))
    return fresh


def test_it_is_listed_and_made(environment: Any) -> None:
    """An entry point that only works from the source tree would fool every in-process test."""
    out = environment.python(
        "import robustlabels as rl, shy_labels, sys, torch\n"
        "assert shy_labels.__file__.startswith(sys.prefix), shy_labels.__file__\n"
        "assert 'shy-hot' in rl.list_schemes()\n"
        "s = rl.make_scheme('shy-hot', 2, shyness=0.5)\n"
        "q = s.labels(torch.tensor([0]), torch.zeros(1, 2))\n"
        "print(q.tolist(), s.attack_labels, s.teacher)\n"
        "try:\n"
        "    rl.make_scheme('shy-hot', 2, shyness=3)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "try:\n"
        "    rl.make_scheme('shy-hut', 2)\n"
        "except KeyError as error:\n"
        "    print(error)\n"
    )
    # p_y = .5, so that .25 of the mass is shared by two: by hand.
    assert out.splitlines() == [
        "[[0.875, 0.125]] hard None",
        "shy-hot: shyness must be in [0, 1], not 3",
        "unknown label scheme 'shy-hut'; did you mean 'shy-hot'?",
    ]


def test_it_trains_in_a_plain_loop(environment: Any) -> None:
    """LabelLoss needs nothing but the plugin's labels()."""
    out = environment.python(
        "import json, robustlabels as rl, torch\n"
        "torch.manual_seed(0)\n"
        "y = torch.arange(60) % 3\n"
        "x = torch.eye(3)[y] + 0.1 * torch.randn(60, 3)\n"
        "model = torch.nn.Linear(3, 3)\n"
        "loss = rl.LabelLoss(rl.make_scheme('shy-hot', 3))\n"
        "sgd = torch.optim.SGD(model.parameters(), lr=1.0)\n"
        "losses = []\n"
        "for _ in range(30):\n"
        "    sgd.zero_grad()\n"
        "    losses.append(loss(model(x), y))\n"
        "    losses[-1].backward()\n"
        "    sgd.step()\n"
        "print(json.dumps([l.item() for l in losses]))\n"
    )
    losses = json.loads(out)
    assert losses[-1] < 0.6 * losses[0]


def test_it_works_inside_vs(environment: Any) -> None:
    """By its name, like any built-in."""
    out = environment.python(
        "import robustlabels as rl, torch\n"
        "s = rl.make_scheme('vs', 2, alpha=0.5, virtual_classes=1,\n"
        "                   inner={'name': 'shy-hot', 'shyness': 0.5})\n"
        "print(s.labels(torch.tensor([0]), torch.zeros(1, 3)).tolist(), sorted(s.needs))\n"
    )
    assert out.strip() == "[[0.4375, 0.0625, 0.5]] ['logits']"


def test_it_can_be_switched_off(environment: Any) -> None:
    """ROBUSTLABELS_PLUGINS, with the names that pip knows."""
    code = (
        "import os, sys; os.environ['ROBUSTLABELS_PLUGINS'] = sys.argv[1]\n"
        "import robustlabels as rl; print('shy-hot' in rl.list_schemes())"
    )
    for selected, expected in (("", "False"), ("Shy_Labels", "True"), ("another", "False")):
        assert environment.run("python", "-c", code, selected).stdout.strip() == expected


def test_it_trains_adversarially_in_the_engine(environment: Any) -> None:
    """Promise 3: one label function, everywhere; here in fit(), by its name. At shyness 0 its label
    is one-hot, so that the weights must be one-hot's; at 1 they must differ, or the engine has
    dropped the soft label on the way to the loss."""
    out = environment.python(
        "import json, robustlabels as rl\n"
        "def train(scheme):\n"
        "    return rl.fit(model='linear', data='digits', scheme=scheme, trainer='pgd-at',\n"
        "                  eps=0.1, epochs=1, seed=0)\n"
        "runs = [train('one-hot'), train({'name': 'shy-hot', 'shyness': 0.0}), train('shy-hot'),\n"
        "        train({'name': 'shy-hot', 'shyness': 1.0})]\n"
        "def apart(a, b):\n"
        "    return max((a.last[k] - b.last[k]).abs().max().item() for k in a.last)\n"
        "print(json.dumps([apart(runs[0], r) for r in runs]))\n"
        "print(type(runs[2].scheme).__name__, runs[2].test_accuracy > 0.3)\n"
    ).splitlines()
    itself, shy_0, shy, shy_1 = json.loads(out[0])
    assert itself == 0
    assert shy_0 < 1e-6
    assert 1e-5 < shy < shy_1
    assert out[1] == "ShyHot True"


def test_the_command_line_lists_it(environment: Any) -> None:
    """`robustlabels plugins` says what pip installed, and `list` who brought what."""
    plugins = environment.run("python", "-m", "robustlabels", "plugins").stdout
    (line,) = [line for line in plugins.splitlines() if "shy-labels" in line]
    assert "0.3.1" in line
    listed = environment.run("python", "-m", "robustlabels", "list", "schemes").stdout
    (line,) = [line for line in listed.splitlines() if "shy-hot" in line]
    assert "shy-labels" in line


def test_it_can_be_uninstalled(environment: Any) -> None:
    """Last: what pip removes is gone, and robustlabels stays."""
    environment.run("python", "-m", "pip", "uninstall", "-y", "shy-labels")
    left = environment.python("import robustlabels as rl; print(*rl.list_schemes())").split()
    assert "shy-hot" not in left
    assert "vs" in left
