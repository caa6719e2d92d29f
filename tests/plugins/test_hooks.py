"""Every hook, from a distribution's entry point to a thing that is used: one test a hook.

Each factory writes down how it was called, to be compared with what the specification says.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

import pytest
import torch

import robustlabels as rl
from robustlabels import hookspecs
from robustlabels.hookspecs import HOOKS
from robustlabels.plugins import host

NOTED = """
CALLS = []
def noted(make):
    def factory(*args, **given):
        CALLS.append((args, given))
        return make(*args, **given)
    return factory
"""
IMAGES = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
DATA = (IMAGES, torch.arange(24) % 3)
QUICK: dict[str, Any] = {"data": DATA, "epochs": 1, "validation": 0, "device": "cpu"}


@pytest.fixture
def bring(installed: Any) -> Any:
    """Stages a plugin; gives the calls of its factories, and what else its module holds."""

    def stage(source: str) -> Any:
        name = installed.add("acme", NOTED + source)
        assert host().records[-1].errors == []
        return sys.modules[name]

    return stage


def test_register_schemes(bring: Any) -> None:
    """``factory(num_classes=K, **params)`` -> a scheme, whose labels reach the loss."""
    plugin = bring(
        """
import torch
class Flat:
    needs = frozenset()
    def __init__(self, num_classes, share=1.0):
        self.num_classes = self.num_outputs = num_classes
        self.share = share
    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        hot = torch.nn.functional.one_hot(y, self.num_classes).float()
        return (1 - self.share) * hot + self.share / self.num_classes
@hookimpl
def register_schemes(register):
    register("flat", noted(Flat))
"""
    )
    result = rl.fit("linear", scheme={"name": "flat", "share": 1.0}, trainer="standard", **QUICK)
    assert plugin.CALLS == [((), {"num_classes": 3, "share": 1.0})]
    assert type(result.scheme) is plugin.Flat
    # No label is like another's, so all that is learnt is to say nothing.
    told = rl.fit("linear", scheme="one-hot", trainer="standard", **QUICK)
    assert result.model(DATA[0]).std() < told.model(DATA[0]).std()


def test_register_trainers(bring: Any) -> None:
    """``factory(**params)`` -> setup once, then inputs and loss in every step."""
    plugin = bring(
        """
class Counting:
    def __init__(self, weight=1.0):
        self.weight, self.seen = weight, []
    def setup(self, run):
        self.seen.append(run.num_classes)
    def inputs(self, step):
        self.seen.append("inputs")
        step.x_adv = step.attack()
    def loss(self, step):
        self.seen.append("loss")
        return self.weight * step.ce(step.model(step.x_adv))
made = []
@hookimpl
def register_trainers(register):
    register("counting", noted(lambda weight=1.0: made.append(Counting(weight)) or made[-1]))
"""
    )
    trainer = {"name": "counting", "weight": 2.0}
    result = rl.fit("linear", trainer=trainer, batch_size=8, **QUICK)
    assert plugin.CALLS == [((), {"weight": 2.0})]
    assert plugin.made[0].seen == [3, *["inputs", "loss"] * 3]
    assert result.config.trainer.name == "counting"


def test_register_attacks(bring: Any) -> None:
    """``factory(eps=..., norm=..., **params)`` -> ``attack(model, x, y)``, in training and when
    judged."""
    plugin = bring(
        """
SEEN = []
class Shift:
    def __init__(self, eps, norm, by=1.0):
        self.by = by * eps
    def __call__(self, model, x, y):
        SEEN.append((tuple(x.shape), str(y.dtype)))
        return (x + self.by).clamp(0, 1).detach()
@hookimpl
def register_attacks(register):
    register("shift", noted(Shift))
"""
    )
    attack = {"name": "shift", "by": 0.5}
    result = rl.fit("linear", attack=attack, eps=0.2, batch_size=12, **QUICK)
    assert plugin.CALLS == [((), {"eps": 0.2, "norm": "Linf", "by": 0.5})]
    assert plugin.SEEN == [((12, 1, 4, 4), "torch.int64")] * 2
    judged = rl.evaluate(result.model, DATA, attacks=[attack], eps=0.1, num_classes=3)
    assert plugin.CALLS[1:] == [((), {"eps": 0.1, "norm": "Linf", "by": 0.5})]
    found = judged["attacks"]["shift"]
    assert found["max_perturbation"] == pytest.approx(0.05)
    assert found["params"]["by"] == pytest.approx(0.05)


def test_register_models(bring: Any) -> None:
    """``factory(num_classes=K, input_shape=(C, H, W), **params)`` -> ``nn.Module``; with vs, K is
    what the scheme needs."""
    plugin = bring(
        """
from torch import nn
def net(num_classes, input_shape, width=4):
    c, h, w = input_shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(c * h * w, width), nn.Tanh(), nn.Linear(width, num_classes)
    )
@hookimpl
def register_models(register):
    register("net", noted(net))
"""
    )
    model = {"name": "net", "width": 5}
    result = rl.fit(model, scheme={"name": "vs", "virtual_classes": 2}, trainer="standard", **QUICK)
    assert plugin.CALLS == [((), {"num_classes": 5, "input_shape": (1, 4, 4), "width": 5})]
    assert [tuple(p.shape) for p in result.model.parameters()] == [(5, 16), (5,), (5, 5), (5,)]


def test_register_datasets(bring: Any) -> None:
    """``factory(root=..., **params)`` -> a DataSet; a family's gets the rest of the name first."""
    plugin = bring(
        """
import torch
from robustlabels.data import DataSet, TensorSplit
def made(n):
    split = TensorSplit(torch.rand(n, 1, 4, 4), torch.arange(n) % 2)
    return DataSet(name="toy", num_classes=2, input_shape=(1, 4, 4), train=split, test=split)
def toy(root=None, n=20):
    return made(n)
def sized(text, root=None):
    return made(int(text))
@hookimpl
def register_datasets(register):
    register("toy", noted(toy))
    register("toy-of:", noted(sized))
"""
    )
    options = {**QUICK, "trainer": "standard"}
    result = rl.fit("linear", **{**options, "data": {"name": "toy", "n": 30}}, data_root="here")
    assert plugin.CALLS == [((), {"root": "here", "n": 30})]
    assert result.num_classes == 2
    assert len(rl.make_dataset("toy-of:12").test) == 12
    assert plugin.CALLS[1:] == [(("12",), {"root": None})]
    assert {"toy", "toy-of:"} <= set(rl.list_datasets())


def test_register_evaluations(bring: Any) -> None:
    """``factory(**params)`` -> ``evaluation(model, x, y, context)`` -> a JSON dict, which is in
    the result under the name."""
    plugin = bring(
        """
class Confidence:
    def __init__(self, power=1):
        self.power = power
    def __call__(self, model, x, y, context):
        p = model(x).softmax(1).amax(1) ** self.power
        return {"mean": float(p.mean()), "n": len(y), "eps": context.eps}
@hookimpl
def register_evaluations(register):
    register("confidence", noted(Confidence))
"""
    )
    assert "confidence" in rl.list_evaluations()
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    torch.nn.init.zeros_(model[1].weight)
    torch.nn.init.zeros_(model[1].bias)
    judged = rl.evaluate(
        model,
        DATA,
        attacks=[],
        eps=0.1,
        num_classes=3,
        evaluations=[{"name": "confidence", "power": 2}],
    )
    assert plugin.CALLS == [((), {"power": 2})]
    # a constant model believes in each of three classes by a third
    assert judged["evaluations"]["confidence"] == {
        "mean": pytest.approx(1 / 9),
        "n": 24,
        "eps": 0.1,
    }


def test_every_hook_has_a_test() -> None:
    """A hook that is added without one is a hook that nobody has ever seen work."""
    specified = {
        name
        for name, value in vars(hookspecs).items()
        if inspect.isfunction(value) and hasattr(value, f"{hookspecs.PROJECT}_spec")
    }
    assert specified == set(HOOKS.values())
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_register_")}
    assert tests == specified
