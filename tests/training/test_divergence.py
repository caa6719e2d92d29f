"""Training that goes wrong: NaN, and catastrophic overfitting."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlabels import LabelScheme, make_scheme, runs
from robustlabels.data import DataSet, TensorSplit
from robustlabels.errors import TrainingError
from robustlabels.training import PGDTraining, Standard, fit, watch
from robustlabels.training.watch import LossWatch, OverfittingWatch

K = 3
CPU = torch.device("cpu")


def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, K))


class Breaks(Standard):
    """Another loss at one step."""

    def __init__(self, at: int, value: Any) -> None:
        self.at, self.value, self.done = at, value, 0

    def loss(self, step: Any) -> Tensor:
        self.done += 1
        loss = super().loss(step)
        return self.value(loss, step.model) if self.done == self.at else loss


def nan(loss: Tensor, net: nn.Module) -> Tensor:
    return loss * math.nan


def inf(loss: Tensor, net: nn.Module) -> Tensor:
    return loss + math.inf


def nan_gradient(loss: Tensor, net: nn.Module) -> Tensor:
    """The loss is finite; sqrt's gradient at 0 is not."""
    return loss + (net[1].weight * 0.0).sum().sqrt()


@pytest.mark.parametrize("saves", [None, 1])
@pytest.mark.parametrize(
    ("at", "value"), [(5, nan), (5, inf), (6, nan), (6, nan_gradient), (5, nan_gradient)]
)
@pytest.mark.parametrize("validation", [0, 16])
def test_a_broken_run_says_so_and_keeps_what_was_good(
    tiny: Any,
    options: dict[str, Any],
    tmp_path: Path,
    at: int,
    value: Any,
    saves: Any,
    validation: int,
) -> None:
    """A NaN in the weights or in the saved state ends every later resume; an overwritten best
    checkpoint loses the run. A finite loss with a broken gradient must not pass either, least of
    all in the very last step."""
    options |= {"epochs": 2, "validation": validation, "save_every": saves}
    options["batch_size"] = (48 - validation + 2) // 3
    out = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        fit(model(), tiny, "one-hot", Breaks(at, value), out=out, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert f"by step {at}" in message or f"by step {at + 1}" in message
    assert "of 6" in message
    assert "the best checkpoint (epoch 1) is kept" in message
    assert isinstance(caught.value, RuntimeError)
    summary = json.loads((out / runs.SUMMARY).read_text())
    assert summary["status"] == "failed"
    assert summary["stopped"] == message
    good = fit(model(), tiny, "one-hot", Breaks(99, value), **options)
    best = runs.load_weights(out / runs.BEST)
    assert all(v.isfinite().all() for v in best.values())
    state = torch.load(out / runs.STATE / "state.pt", weights_only=True)
    assert state["done"] <= at
    assert all(v.isfinite().all() for v in state["model"].values())
    assert len((out / runs.METRICS).read_text().splitlines()) == 1
    first = json.loads((out / runs.METRICS).read_text().splitlines()[0])
    assert first["train_loss"] == good.history[0]["train_loss"]
    if not validation:  # of epoch 1: what a run of the same first epoch would hold
        assert not torch.equal(best["1.weight"], good.last["1.weight"])


def test_broken_in_the_first_epoch(tiny: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """There is no checkpoint to speak of, and the message must not claim one."""
    with pytest.raises(TrainingError, match="no checkpoint was good yet"):
        fit(model(), tiny, "one-hot", Breaks(2, nan), out=tmp_path / "run", **options)
    assert not (tmp_path / "run" / runs.BEST).exists()
    assert not (tmp_path / "run" / runs.STATE / "state.pt").exists()


def test_a_broken_loss_never_reaches_the_optimizer(tiny: Any, options: dict[str, Any]) -> None:
    """A module given from Python is trained in place: NaN weights would be the user's."""
    net = model()
    with pytest.raises(TrainingError):
        fit(net, tiny, "one-hot", Breaks(2, nan), **options)
    assert all(p.isfinite().all() for p in net.parameters())


def test_minus_infinity_in_a_buffer_is_no_divergence(tiny: Any, options: dict[str, Any]) -> None:
    """Attention masks hold it."""
    net = model()
    net[1].register_buffer("mask", torch.full((2,), -math.inf))
    assert fit(net, tiny, "one-hot", "standard", **options).stopped is None


class Shift(nn.Module):
    """Adds a number to its inputs."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class RootAtZero(nn.Module):
    """Adds sqrt(0): finite, but its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.zero.square().sqrt()


def nan_images() -> DataSet:
    """A plugin's data set that nobody has checked; lists and loaders are checked when read."""
    split = TensorSplit(torch.full((48, 1, 4, 4), math.nan), torch.arange(48) % K)
    return DataSet("nan", split, None, K, (1, 4, 4), opaque=True)


class NanLabels(LabelScheme):
    """Labels that are no distribution."""

    def _labels(self, y: Tensor, *_: Any, like: Tensor, **__: Any) -> Tensor:
        return like.new_full((len(y), self.num_outputs), math.nan)


class NanAttack:
    """An attack that divides 0 by 0."""

    def __call__(self, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x * math.nan


def nan_teacher() -> nn.Module:
    return nn.Sequential(model(), Shift(math.nan))


FIRST_STEP: dict[str, Any] = {
    "training images": lambda: {"data": nan_images()},
    "teacher's logits": lambda: {"scheme": "ltd", "teacher": nan_teacher()},
    "adversarial images": lambda: {"trainer": "pgd-at", "attack": NanAttack()},
    "model's logits": lambda: {"model": nn.Sequential(model(), Shift(math.inf))},
    "labels": lambda: {"scheme": NanLabels(K)},
    "loss": lambda: {"trainer": Breaks(1, nan)},
    "gradients": lambda: {"model": nn.Sequential(model(), RootAtZero())},
}


@pytest.mark.parametrize("every", [1, 25])
@pytest.mark.parametrize("cause", FIRST_STEP)
@pytest.mark.filterwarnings("ignore::robustlabels.errors.RobustLabelsWarning")
def test_what_broke_first_is_named(
    tiny: Any,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    cause: str,
    every: int,
) -> None:
    """A user who reads "lower the learning rate" at step 1 looks in the wrong place. A GPU looks
    only now and then, when everything else is NaN too."""
    monkeypatch.setattr(watch, "STEPS_PER_LOOK", every)
    given = {"model": model(), "data": tiny, "scheme": "one-hot", "trainer": "standard"}
    given |= FIRST_STEP[cause]()
    with pytest.raises(TrainingError) as caught:
        fit(**given, **{**options, "optimizer": {"momentum": 0.0}})
    assert str(caught.value).startswith(f"the {cause} became NaN or infinite by step ")
    if every == 1 and cause != "gradients":
        assert "by step 1 of 3" in str(caught.value)
        assert "optimizer.lr" not in str(caught.value)


def test_a_learning_rate_that_is_too_high_is_named(tiny: Any, options: dict[str, Any]) -> None:
    """Finite gradients times an impossible rate."""
    options |= {"optimizer": {"lr": 1e38, "momentum": 0.0}}
    steep = Breaks(1, lambda loss, net: loss * 1e4)
    with pytest.raises(TrainingError, match=r"the weights became NaN .*lower optimizer\.lr"):
        fit(model(), tiny, "one-hot", steep, **options)


def test_weights_that_are_nan_before_training_are_refused(
    tiny: Any, options: dict[str, Any]
) -> None:
    """They would make the logits NaN, which sends the user to the forward pass."""
    net = model()
    with torch.no_grad():
        net[1].bias[1] = math.nan
    with pytest.raises(ValueError, match=r"must be finite before training, but 1\.bias has NaN"):
        fit(net, tiny, "one-hot", "standard", **options)


class RulesOut(nn.Module):
    """Gives the third class the logit -inf."""

    def forward(self, z: Tensor) -> Tensor:
        return z.masked_fill(torch.arange(K) == 2, -math.inf)


@pytest.mark.parametrize("trainer", ["standard", "pgd-at", "trades", "mart"])
def test_logits_of_minus_infinity_train(tiny: Any, options: dict[str, Any], trainer: str) -> None:
    """A class that a model rules out has probability 0, and a finite loss stays finite."""
    x, y = tiny
    data = (x[y < 2], y[y < 2])
    net = nn.Sequential(model(), RulesOut())
    scheme = make_scheme("one-hot", num_classes=K)
    result = fit(net, data, scheme, trainer, num_classes=K, **options)
    assert all(math.isfinite(r["train_loss"]) for r in result.history)
    assert all(p.isfinite().all() for p in net.parameters())


def test_loss_watch() -> None:
    """On a GPU it looks now and then, but forgets nothing."""
    watch = LossWatch(CPU, every=3)
    good, bad = torch.tensor(1.0), torch.tensor(math.nan)
    assert [watch.saw(v) for v in (good, bad, good, good, good, good)] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]
    assert watch.broken()
    assert not LossWatch(CPU).broken()
    assert LossWatch(CPU).saw(bad)
    assert LossWatch(CPU).saw(torch.tensor(-math.inf))


# Catastrophic overfitting.


def test_overfitting_by_hand() -> None:
    """Robust accuracy from .4 to below .2 while clean and training accuracy hold."""
    watch = OverfittingWatch(10)
    assert watch.saw(0.6, 0.3, 0.3) is None
    assert watch.saw(0.6, 0.4, 0.4) is None
    assert watch.saw(0.6, 0.2, 0.5) is None  # half, not below
    assert watch.best == 0.4
    assert watch.saw(0.7, 0.19, 0.8) is None
    message = watch.saw(0.7, 0.18, 0.8)
    assert message is not None
    assert "40.0%" in message
    assert "18.0%" in message
    assert "80.0%" in message


def test_one_bad_look_is_no_collapse() -> None:
    """A look at 128 samples in the midst of training swings widely: of 14 healthy runs on digits,
    four were stopped by a single one."""
    watch = OverfittingWatch(10)
    watch.saw(0.9, 0.48, 0.6)
    for _ in range(3):
        assert watch.saw(0.9, 0.2, 0.6) is None
        assert watch.saw(0.9, 0.45, 0.6) is None


@pytest.mark.parametrize(
    ("clean", "robust", "training"),
    [
        (0.3, 0.1, 0.8),  # clean accuracy fell too: a learning rate that is too high
        (0.8, 0.1, 0.3),  # the training attack still finds errors
        (0.8, 0.3, 0.8),  # not that low
    ],
)
def test_what_is_not_catastrophic(clean: float, robust: float, training: float) -> None:
    """A false alarm throws the rest of the training away."""
    watch = OverfittingWatch(10)
    watch.saw(0.5, 0.4, 0.4)
    assert [watch.saw(clean, robust, training) for _ in range(3)] == [None] * 3


def test_a_perfect_start_can_fall_too() -> None:
    """On easy data robust accuracy is 1 before it collapses, and nothing is above that."""
    watch = OverfittingWatch(10)
    watch.saw(1.0, 1.0, 1.0)
    assert [watch.saw(1.0, 0.2, 1.0) is None for _ in range(2)] == [True, False]


def test_nothing_is_said_before_there_was_any_robustness() -> None:
    """From chance to nothing is no fall: at K = 10 robust accuracy must have passed .15."""
    watch = OverfittingWatch(10)
    watch.saw(0.3, 0.14, 0.3)
    assert [watch.saw(0.9, 0.0, 0.9) for _ in range(3)] == [None] * 3
    assert watch.saw(0.9, 0.16, 0.9) is None
    assert [watch.saw(0.9, 0.0, 0.9) is None for _ in range(2)] == [True, False]


WEAK = [10, 11, 14]  # three pixels of the quarter that no class brightens


def weights_for(tiny: Any) -> tuple[Tensor, Tensor]:
    """Of a robust linear classifier, and of one that reads the weak pixels only."""
    x, y = tiny
    rows = [x[y == k].mean(dim=0).flatten() - x.mean(dim=0).flatten() for k in range(K)]
    robust = 10 * torch.stack(rows)
    robust[:, WEAK] = 0
    brittle = torch.zeros(K, 16)
    brittle[range(K), WEAK] = 100.0
    return robust, brittle


class Collapses(PGDTraining):
    """A single-step trainer whose weights a script sets: robust until a step, then brittle."""

    single_step = True

    def __init__(self, tiny: Any, at: int) -> None:
        self.good, self.bad = weights_for(tiny)
        self.at, self.seen = at, 0

    def inputs(self, step: Any) -> None:
        step.x_adv = step.x  # an attack that finds nothing

    def loss(self, step: Any) -> Tensor:
        with torch.no_grad():
            step.model[1].weight.copy_(self.good if self.seen < self.at else self.bad)
            step.model[1].bias.zero_()
        self.seen += 1
        return super().loss(step) * 0.0


@pytest.fixture
def watched(tiny: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Eight steps an epoch: looks after the second, fourth, sixth, and at its end."""
    x, y = tiny
    x.flatten(1)[:, WEAK] = 0.5 + 0.04 * torch.eye(K)[y]  # sure, but within eps
    still = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    options |= {"epochs": 3, "validation": 16, "batch_size": 4, "optimizer": still, "eps": 0.17}
    return tiny, options


@pytest.mark.parametrize(
    ("at", "stopped", "saved"), [(9, 12, 8), (10, 14, 8), (13, 16, 16), (15, 18, 16), (17, 20, 16)]
)
def test_a_collapse_stops_the_run_at_the_second_look(
    watched: Any, tmp_path: Path, at: int, stopped: int, saved: int
) -> None:
    """An epoch of a big data set is long, and everything after the collapse is lost time."""
    tiny, options = watched
    out = tmp_path / "run"
    trainer = Collapses(tiny, at)
    result = fit(model(), tiny, "one-hot", trainer, out=out, **options)
    assert result.stopped is not None
    assert f"at step {stopped} of 24" in result.stopped
    assert "catastrophic overfitting" in result.stopped
    assert "the best checkpoint (epoch 1) is kept" in result.stopped
    assert trainer.seen == stopped
    assert torch.equal(result.model[1].weight, trainer.good)
    assert torch.equal(runs.load_weights(out / runs.BEST)["1.weight"], trainer.good)
    summary = json.loads((out / runs.SUMMARY).read_text())
    assert summary["status"] == "stopped"
    assert summary["stopped"] == result.stopped
    rest = Collapses(tiny, max(at - saved, 0))
    again = fit(model(), tiny, "one-hot", rest, out=out, resume=True, **options)
    assert again.stopped == result.stopped
    assert rest.seen == stopped - saved


def test_stopped_at_an_epochs_end_stays_stopped(watched: Any, tmp_path: Path) -> None:
    """The state of that epoch is saved: resumed, the run would go on after the collapse."""
    tiny, options = watched
    out = tmp_path / "run"
    first = fit(model(), tiny, "one-hot", Collapses(tiny, 13), out=out, **options)
    before = runs.load_weights(out / runs.LAST)
    resumed = Collapses(tiny, 0)
    again = fit(model(), tiny, "one-hot", resumed, out=out, resume=True, **options)
    assert resumed.seen == 0
    assert again.stopped == first.stopped
    assert again.history == first.history
    after = runs.load_weights(out / runs.LAST)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_collapse_before_any_epoch_has_ended(watched: Any, tmp_path: Path) -> None:
    """There is no best checkpoint yet; the run must still end with weights and without a claim."""
    tiny, options = watched
    result = fit(model(), tiny, "one-hot", Collapses(tiny, 3), out=tmp_path / "run", **options)
    assert result.stopped is not None
    assert "at step 6 of 24" in result.stopped
    assert "best checkpoint" not in result.stopped
    assert (tmp_path / "run" / runs.BEST).is_file()
    assert result.history == []


def test_looks_are_at_samples_of_all_classes(options: dict[str, Any]) -> None:
    """Data are often sorted by class: the first held-out batch would be of one or two classes,
    whose accuracy is not comparable with that of all. Here a robust model meets such data: its
    robust accuracy is 1 on the first class, and 1/3 altogether."""
    from robustlabels.training import engine

    x = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(300) // 100
    seen: list[set[int]] = []
    genuine = engine.validate

    def spy(net: Any, split: Any, indices: Tensor, **more: Any) -> Any:
        seen.append(set(split.y[indices].tolist()))
        return genuine(net, split, indices, **more)

    options |= {"validation": 200, "batch_size": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "validate", spy)
        fit(model(), (x, y), "one-hot", "fast-at", **options)
    assert len(seen) > 2
    assert all(classes == {0, 1, 2} for classes in seen)


def collapsing_run(seed: int) -> Any:
    """FGSM training at a radius and a step that it can't stand, on the embedded digits."""
    return fit(
        {"name": "mlp", "hidden": [256, 256]},
        "digits",
        "one-hot",
        "fast-at",
        attack={"name": "pgd", "step_size": 0.6, "start": "none"},
        eps=0.3,
        epochs=15,
        seed=seed,
        batch_size=64,
        schedule={"name": "constant"},
        validation=200,
    )


def test_a_real_collapse_is_found() -> None:
    """What the watch is for: robust accuracy under PGD falls to almost nothing while the accuracy
    under the training attack grows. The best checkpoint is the one from before."""
    # Whether a seed collapses depends on the machine's rounding too.
    results = (collapsing_run(seed) for seed in (0, 2, 3, 4, 5))
    result = next(r for r in results if r.stopped is not None)
    assert result.stopped is not None
    assert "catastrophic overfitting" in result.stopped
    assert result.best["validation_robust_accuracy"] > 0.1


@pytest.mark.parametrize("trainer", ["fast-at", "pgd-at", "trades"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_false_alarm_in_honest_training(
    tiny: Any, options: dict[str, Any], trainer: str, seed: int
) -> None:
    """Noisy small looks at a healthy run must not stop it."""
    options |= {"epochs": 10, "validation": 12, "batch_size": 8, "eps": 0.05, "seed": seed}
    result = fit({"name": "mlp", "hidden": [16]}, tiny, "ls", trainer, **options)
    assert result.stopped is None
    assert result.history[-1]["epoch"] == 10
