"""The optimizer and the learning rate, by hand in float64."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels.config import OptimizerConfig, ScheduleConfig
from robustlabels.training import Standard, fit
from robustlabels.training.optimizers import make_optimizer, rate_factor


def factors(epochs: int = 10, per_epoch: int = 10, **fields: Any) -> list[float]:
    config = ScheduleConfig(**fields)
    total = epochs * per_epoch
    return [rate_factor(config, step, total, epochs) for step in range(total)]


def test_step_milestones_as_shares() -> None:
    """x .1 at 50 % and at 75 %, from that very step on."""
    f = factors(name="step")
    assert f[:50] == [1.0] * 50
    assert f[50:75] == pytest.approx([0.1] * 25)
    assert f[75:] == pytest.approx([0.01] * 25)


def test_step_milestones_as_epochs() -> None:
    """LTD drops at epochs 80 and 100 of 120: as shares of training they would never come."""
    f = factors(epochs=12, name="step", milestones=[8, 10], gamma=0.2)
    assert f[79] == 1.0
    assert f[80:100] == pytest.approx([0.2] * 20)
    assert f[100] == pytest.approx(0.04)
    assert f[119] == pytest.approx(0.04)


def test_a_milestone_of_1_is_the_first_epoch() -> None:
    """As a share it would be the end of training: never."""
    f = factors(name="step", milestones=[1], gamma=0.5)
    assert (f[9], f[10]) == (1.0, 0.5)


def test_cosine() -> None:
    """From 1 to 0 along half a cosine; a full one would come back up."""
    f = factors(name="cosine")
    assert f[0] == 1.0
    assert f[25] == pytest.approx(0.5 * (1 + math.sqrt(0.5)))
    assert f[50] == pytest.approx(0.5)
    assert f[99] == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))
    assert f == sorted(f, reverse=True)


def test_cyclic() -> None:
    """Up to 1 at the peak, then down, linear on both sides; it neither starts at 0 nor ends
    there, where a step would be lost."""
    f = factors(name="cyclic", peak=0.4)
    for step in (0, 7, 20, 39):
        assert f[step] == pytest.approx((step + 1) / 101 / 0.4)
    for step in (40, 63, 99):
        assert f[step] == pytest.approx((1 - (step + 1) / 101) / 0.6)
    assert max(f) == pytest.approx(1.0, abs=0.02)
    assert min(f) > 0


def test_warm_up() -> None:
    """Linear to the full rate over its epochs, then the schedule as if it had not been."""
    f = factors(name="constant", warmup_epochs=2.0)
    assert f[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert f[20:] == [1.0] * 80
    g = factors(name="cosine", warmup_epochs=0.5)
    assert g[:5] == pytest.approx(
        [(i + 1) / 5 * 0.5 * (1 + math.cos(math.pi * i / 100)) for i in range(5)]
    )
    assert g[5:] == factors(name="cosine")[5:]


def test_constant() -> None:
    """No schedule at all."""
    assert set(factors(name="constant")) == {1.0}


# One float64 weight vector under given gradients.


def run_optimizer(gradients: np.ndarray, start: np.ndarray, **fields: Any) -> np.ndarray:
    model = nn.Linear(len(start), 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(start))
    optimizer = make_optimizer(model, OptimizerConfig(**fields))
    for g in gradients:
        model.weight.grad = torch.from_numpy(g).reshape(1, -1).clone()
        optimizer.step()
    return model.weight.detach().numpy()[0]


@pytest.fixture
def start() -> np.ndarray:
    return np.array([1.0, -2.0, 0.5])


@pytest.fixture
def gradients() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(4, 3))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_sgd(start: np.ndarray, gradients: np.ndarray, momentum: float, nesterov: bool) -> None:
    """v <- m v + g; w <- w - lr (g + m v) with Nesterov, - lr v without; weight decay in g."""
    w, v = start.copy(), np.zeros(3)
    for g in gradients:
        decayed = g + 0.01 * w
        v = momentum * v + decayed
        w = w - 0.3 * (decayed + momentum * v if nesterov and momentum else v)
    found = run_optimizer(
        gradients, start, lr=0.3, momentum=momentum, nesterov=nesterov, weight_decay=0.01
    )
    np.testing.assert_allclose(found, w, rtol=1e-12)


def test_adamw(start: np.ndarray, gradients: np.ndarray) -> None:
    """Weight decay outside the moments (AdamW); inside it would be Adam."""
    w, m, v = start.copy(), np.zeros(3), np.zeros(3)
    for t, g in enumerate(gradients, start=1):
        w = w - 0.01 * 0.1 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    found = run_optimizer(gradients, start, name="adamw", lr=0.01, weight_decay=0.1)
    np.testing.assert_allclose(found, w, rtol=1e-10)


def test_usual_learning_rates() -> None:
    """.1 for SGD is ten times too much for AdamW, and the other way round."""
    assert OptimizerConfig().learning_rate == 0.1
    assert OptimizerConfig(name="adamw").learning_rate == 1e-3
    assert OptimizerConfig(name="adamw", lr=0.5).learning_rate == 0.5


def test_frozen_parameters_are_left_alone() -> None:
    """Weight decay would pull the layers that a user froze to 0."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, OptimizerConfig())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


# In a run.


class Slope(Standard):
    """A loss whose gradient by the weights is 1 everywhere, whatever they are."""

    def loss(self, step: Any) -> Tensor:
        step.ce(step.model(step.x))
        return sum(p.sum() for p in step.model.parameters())


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def plain(**more: Any) -> dict[str, Any]:
    return {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, **more}


def test_the_rate_of_each_step_reaches_the_optimizer(tiny: Any, options: dict[str, Any]) -> None:
    """A schedule updated once an epoch, or one step late, trains at other rates than it says."""
    before = linear()[1].weight.detach().clone()
    options |= {"epochs": 2, "optimizer": plain(), "schedule": {"name": "cosine"}}
    result = fit(linear(), tiny, "one-hot", Slope(), **options)
    moved = sum(0.5 * 0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6))
    torch.testing.assert_close(result.last["1.weight"], before - moved)
    rates = [0.25 * (1 + math.cos(math.pi * i / 6)) for i in (2, 5)]
    assert [r["lr"] for r in result.history] == pytest.approx(rates)


def test_gradient_clipping_is_of_the_whole_norm(tiny: Any, options: dict[str, Any]) -> None:
    """51 gradients of 1 have the norm sqrt(51); clipped to 1, each is 1 / sqrt(51). Clipping
    each value, or each tensor, gives something else."""
    before = linear()[1].weight.detach().clone()
    options |= {"optimizer": plain(clip_grad_norm=1.0), "schedule": {"name": "constant"}}
    result = fit(linear(), tiny, "one-hot", Slope(), **options)
    torch.testing.assert_close(result.last["1.weight"], before - 3 * 0.5 / math.sqrt(51))


def test_clipping_leaves_small_gradients_alone(tiny: Any, options: dict[str, Any]) -> None:
    """Clipping is no normalisation."""
    before = linear()[1].weight.detach().clone()
    options |= {"optimizer": plain(clip_grad_norm=100.0), "schedule": {"name": "constant"}}
    result = fit(linear(), tiny, "one-hot", Slope(), **options)
    torch.testing.assert_close(result.last["1.weight"], before - 3 * 0.5)


def test_clipping_is_of_the_whole_batch_with_accumulation(tiny: Any, options: dict[str, Any]):
    """Clipped after each part, the batch's gradient would be up to ``accumulate`` times longer."""
    before = linear()[1].weight.detach().clone()
    options |= {"optimizer": plain(clip_grad_norm=1.0), "schedule": {"name": "constant"}}
    result = fit(linear(), tiny, "one-hot", Slope(), accumulate=4, **options)
    torch.testing.assert_close(result.last["1.weight"], before - 3 * 0.5 / math.sqrt(51))


ADAM = {"lr": 0.02, "weight_decay": 0.1}


@pytest.mark.parametrize("form", ["object", "class", "partial", "function"])
def test_the_users_own_optimizer_trains(tiny: Any, options: dict[str, Any], form: str) -> None:
    """Against a plain torch loop over the same batches: fit sets no rate of its own."""
    net = linear()
    given: Any = {
        "object": lambda: torch.optim.Adam(net.parameters(), **ADAM),
        "class": lambda: torch.optim.Adam,
        "partial": lambda: functools.partial(torch.optim.Adam, **ADAM),
        "function": lambda: lambda model: torch.optim.Adam(model.parameters(), **ADAM),
    }[form]()
    options |= {"batch_size": 48, "epochs": 3}
    result = fit(net, tiny, "one-hot", "standard", optimizer=given, **options)

    expected = linear()
    optimizer = torch.optim.Adam(expected.parameters(), **({} if form == "class" else ADAM))
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(expected(tiny[0]), tiny[1]).backward()
        optimizer.step()
    torch.testing.assert_close(result.last["1.weight"], expected[1].weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("own_optimizer", [True, False])
def test_the_users_own_scheduler_steps_after_each_epoch(
    tiny: Any, options: dict[str, Any], tmp_path: Path, own_optimizer: bool
) -> None:
    """Also when the run is resumed: a scheduler that began again would raise the rate."""

    def stop(done: int, total: int, record: Any) -> None:
        if record is not None and record["epoch"] == 3:
            raise KeyboardInterrupt

    def given() -> dict[str, Any]:
        net = linear()
        optimizer: Any = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
        steps = functools.partial(
            torch.optim.lr_scheduler.MultiStepLR, milestones=[1, 3], gamma=0.1
        )
        if own_optimizer:
            return {"model": net, "optimizer": optimizer, "scheduler": steps(optimizer)}
        return {"model": net, "optimizer": {"lr": 0.5}, "scheduler": steps}

    options |= {"epochs": 5, "data": tiny, "scheme": "one-hot", "trainer": "standard"}
    whole = fit(**given(), **options)
    rates = [record["lr"] for record in whole.history]
    assert rates == pytest.approx([0.5, 0.05, 0.05, 0.005, 0.005])
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(**given(), **options, out=out, progress=stop)
    resumed = fit(**given(), **options, out=out, resume=True)
    assert resumed.history[2]["lr"] == pytest.approx(0.05)
    assert torch.equal(resumed.last["1.weight"], whole.last["1.weight"])


def test_a_factory_sees_the_widened_model(tiny: Any, options: dict[str, Any]) -> None:
    """An object made before has the old last layer, which would never be trained."""
    net = linear()
    early = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"parameters that are not the model's .* give a function"):
        fit(net, tiny, "vs", "standard", optimizer=early, **options)
    net = linear()
    before = net[1].weight.clone()
    result = fit(net, tiny, "vs", "standard", optimizer=torch.optim.SGD, **options)
    assert result.last["1.weight"].shape == (6, 16)
    assert not torch.equal(result.last["1.weight"][:3], before)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": 3}, "optimizer must be a table, a torch optimizer"),
        ({"optimizer": torch.optim.LBFGS}, "needs no closure.* not LBFGS"),
        ({"optimizer": lambda model: model}, "not Sequential"),
        ({"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, "needs no metric"),
        ({"scheduler": lambda optimizer: 3}, "not int"),
        (
            {"scheduler": lambda _: torch.optim.lr_scheduler.StepLR(another(), 1)},
            "belongs to another optimizer",
        ),
        ({"optimizer": torch.optim.SGD, "schedule": {"name": "cosine"}}, "schedule is for"),
    ],
)
def test_impossible_optimizers(
    tiny: Any, options: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    """One line instead of a traceback in the first step."""
    with pytest.raises(ValueError, match=message) as caught:
        fit(linear(), tiny, "one-hot", "standard", **given, **options)
    assert "\n" not in str(caught.value)


def another() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
