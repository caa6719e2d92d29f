"""Which steps run compiled. Real compiling, which takes long, is in the integration tests."""

from __future__ import annotations

import functools
import time
from typing import Any

import pytest
import torch
from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.training import fit
from robustlabels.training.compiling import TRIALS, Compiling

CPU = torch.device("cpu")
MANY = 10**9
"""Steps that are left: training long enough for anything."""


class Steps:
    """Steps that sleep instead of computing, and write down whether they were compiled."""

    def __init__(self, how: str, eager: float = 0.0, compiled: float = 0.0) -> None:
        self.model = nn.Linear(2, 2)
        self.compiling = Compiling(self.model, how, CPU)
        self.seconds = {False: eager, True: compiled}
        self.seen: list[bool] = []

    def take(self, count: int = 1, rows: int = 8, left: int = MANY) -> list[bool]:
        def step() -> None:
            self.seen.append("forward" in vars(self.model))
            time.sleep(self.seconds[self.seen[-1]])

        self.seen.clear()
        for _ in range(count):
            self.compiling.run(step, rows, left)
        assert "forward" not in vars(self.model)
        return self.seen


@pytest.mark.parametrize(("eager", "compiled"), [(0.02, 0.005), (0.005, 0.02)])
def test_auto_stays_with_the_faster(eager: float, compiled: float) -> None:
    """On a small net a compiled step can be slower: it is measured, not believed."""
    steps = Steps("auto", eager, compiled)
    assert steps.take(2 * TRIALS) == [False] * TRIALS + [True] * TRIALS
    assert steps.compiling.chosen is (compiled < eager)
    assert steps.take(2) == [compiled < eager] * 2


def test_auto_does_not_try_in_a_short_run() -> None:
    """Compiling takes minutes, which a short run never gets back."""
    steps = Steps("auto", 0.001, 0.0)
    assert steps.take(TRIALS + 2, left=1000) == [False] * (TRIALS + 2)
    assert steps.compiling.chosen is False


def test_a_smaller_batch_runs_eagerly() -> None:
    """The last batch of each epoch would be compiled anew, for one step of many."""
    steps = Steps("on")
    assert [*steps.take(rows=8), *steps.take(rows=3), *steps.take(rows=8)] == [True, False, True]


def test_a_failure_inside_leaves_the_model_as_it_was() -> None:
    """A compiled forward left behind would be in every copy of the user's model."""
    steps = Steps("on")

    def fail() -> None:
        assert "forward" in vars(steps.model)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        steps.compiling.run(fail, 8, MANY)
    assert "forward" not in vars(steps.model)


def test_a_forward_on_the_object_comes_back() -> None:
    """Users put a forward on an object; deleting ours must not delete theirs."""
    steps = Steps("on")
    steps.model.forward = own = lambda x: x  # type: ignore[method-assign]
    steps.compiling.run(lambda: None, 8, MANY)
    assert steps.model.forward is own


def test_the_fifth_model_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps 8 graphs of a function: a comparison's later runs said "compiled", and were not.
    Traced, not compiled: that is what is counted."""
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    reset()
    counters.clear()
    for width in range(1, 6):
        model = nn.Sequential(nn.Linear(2, width))
        steps = Compiling(model, "on", CPU)
        for training in (True, False):
            model.train(training).requires_grad_(training)
            steps.run(lambda model=model: model(torch.ones(4, 2)), 4, MANY)
    assert counters["stats"]["unique_graphs"] == 10
    reset()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tiny: Any, options: Any) -> None:
    """torch says it after minutes, in a hundred lines."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BadValueError, match=r"C\+\+ compiler.*compile=off") as caught:
        fit("mlp", tiny, compile="on", num_classes=3, **options)
    assert "\n" not in str(caught.value)
    fit("mlp", tiny, num_classes=3, **options)


@pytest.mark.parametrize(("given", "meant"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_names_of_the_option(tiny: Any, options: Any, given: Any, meant: str) -> None:
    """``compile = true`` is what everybody writes in TOML."""
    from robustlabels.config import make_config

    assert make_config({"compile": given}).compile == meant
    with pytest.raises(ValueError, match="compile must be 'off', 'on' or 'auto', not 'fast'"):
        make_config({"compile": "fast"})
