"""What chooses the best checkpoint: a held-out part of the training split, never the test set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from robustlabels import runs
from robustlabels.data import TensorSplit
from robustlabels.errors import RobustLabelsWarning
from robustlabels.training import PGDTraining, Standard, fit
from robustlabels.training.validation import validate

K = 3


def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, K))


class Looking(Standard):
    """Keeps which samples are trained on."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def loss(self, step: Any) -> Tensor:
        self.seen.append(step.index.clone())
        return super().loss(step)


def trained_on(tiny: Any, options: dict[str, Any], **more: Any) -> list[int]:
    trainer = Looking()
    fit(model(), tiny, "one-hot", trainer, **{**options, **more})
    return torch.cat(trainer.seen).sort().values.tolist()


@pytest.mark.parametrize(("wanted", "count"), [(16, 16), (0.25, 12), (0, 0), (0.0, 0), (None, 4)])
def test_how_many_are_held_out(tiny: Any, options: dict[str, Any], wanted: Any, count: int):
    """A number, a share, or a tenth; held-out samples that are trained on choose the most
    overfitted checkpoint."""
    seen = trained_on(tiny, options, validation=wanted, batch_size=4)
    assert len(seen) == 48 - count
    assert len(set(seen)) == len(seen)


def test_the_split_depends_on_the_seed_only(tiny: Any, options: dict[str, Any]) -> None:
    """Runs of one seed with different schemes must hold out the same samples; other seeds
    others."""
    options |= {"validation": 16}
    first = trained_on(tiny, options, seed=1)
    torch.manual_seed(99)
    assert trained_on(tiny, options, seed=1, optimizer={"lr": 0.01}) == first
    assert trained_on(tiny, options, seed=2) != first


@pytest.mark.parametrize("wanted", [47, 48, 1000, 1.0, 0.99])
def test_too_many(tiny: Any, options: dict[str, Any], wanted: Any) -> None:
    """Nothing would be left to train on."""
    with pytest.raises(ValueError, match="validation") as caught:
        fit(model(), tiny, **{**options, "validation": wanted})
    assert "\n" not in str(caught.value)


def test_the_test_set_never_chooses(tiny: Any, options: dict[str, Any]) -> None:
    """ADR's and AWP's code choose on the test set: their 'best' is optimistic. Here another test
    set must change nothing but its own accuracy."""
    x, y = tiny
    options |= {"epochs": 4, "validation": 16, "optimizer": {"lr": 1.0}}
    good = fit(model(), ((x, y), (x, y)), "one-hot", "standard", **options)
    bad = fit(model(), ((x, y), (x, (y + 1) % K)), "one-hot", "standard", **options)
    assert good.best["epoch"] == bad.best["epoch"]
    for a, b in zip(good.model.parameters(), bad.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert good.test_accuracy is not None
    assert bad.test_accuracy is not None
    assert good.test_accuracy > 0.5 > bad.test_accuracy
    with torch.no_grad():
        right = (good.model(x).argmax(dim=1) == y).double().mean().item()
    assert good.test_accuracy == pytest.approx(right)


def prototypes(x: Tensor, y: Tensor, scale: float) -> Tensor:
    rows = [x[y == k].mean(dim=0).flatten() - x.mean(dim=0).flatten() for k in range(K)]
    return scale * torch.stack(rows)


class Scripted(Standard):
    """Sets the weights as a script says, by epoch: a classifier that is right, or wrong."""

    def __init__(self, weights: list[Tensor], steps: int) -> None:
        self.weights, self.steps, self.done = weights, steps, 0

    def loss(self, step: Any) -> Tensor:
        with torch.no_grad():
            step.model[1].weight.copy_(self.weights[self.done // self.steps])
            step.model[1].bias.zero_()
        self.done += 1
        return step.ce(step.model(step.x)) * 0.0


class ScriptedRobust(Scripted):
    """The same for a trainer that is judged by robust accuracy."""

    adversarial = True


PLAIN = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


def script(tiny: Any) -> list[Tensor]:
    x, y = tiny
    good = prototypes(x, y, 10.0)
    return [torch.zeros_like(good), good, -good]


@pytest.mark.parametrize("trainer", [Scripted, ScriptedRobust])
def test_best_is_best_and_last_is_last(
    tiny: Any, options: dict[str, Any], tmp_path: Path, trainer: Any
) -> None:
    """Accuracy goes up, then collapses: the kept weights must be those of epoch 2, bit for bit,
    and the last ones must be there too."""
    weights = script(tiny)
    options |= {"epochs": 3, "validation": 16, "optimizer": PLAIN, "eps": 0.05}
    result = fit(model(), tiny, "one-hot", trainer(weights, 2), out=tmp_path / "run", **options)
    assert result.best["epoch"] == 2
    assert result.best["weights"] == "raw"
    assert torch.equal(result.model[1].weight, weights[1])
    assert torch.equal(result.last["1.weight"], weights[2])
    best = runs.load_weights(tmp_path / "run" / runs.BEST)
    last = runs.load_weights(tmp_path / "run" / runs.LAST)
    assert torch.equal(best["1.weight"], weights[1])
    assert torch.equal(last["1.weight"], weights[2])
    summary = json.loads((tmp_path / "run" / runs.SUMMARY).read_text())
    assert (summary["best"]["epoch"], summary["last"]["epoch"]) == (2, 3)
    accuracy = [r["validation_accuracy"] for r in result.history]
    assert accuracy[1] > 0.9 > accuracy[2]


def test_of_equals_the_first_is_kept(tiny: Any, options: dict[str, Any]) -> None:
    """The earlier one is the less overfitted; and a best checkpoint that is written anew at every
    tie costs time."""
    _, good, _ = script(tiny)
    options |= {"epochs": 3, "validation": 16, "optimizer": PLAIN}
    trainer = Scripted([torch.zeros_like(good), good, 1.01 * good], 2)
    result = fit(model(), tiny, "one-hot", trainer, **options)
    assert result.history[1]["validation_accuracy"] == result.history[2]["validation_accuracy"]
    assert result.best["epoch"] == 2
    assert torch.equal(result.model[1].weight, good)


def test_robust_accuracy_goes_first_and_clean_accuracy_breaks_ties(
    tiny: Any, options: dict[str, Any]
) -> None:
    """An adversarial trainer's best by clean accuracy is often its least robust one."""
    x, y = tiny
    robust = prototypes(x, y, 10.0)
    brittle = robust + 60 * torch.randn(K, 16, generator=torch.Generator().manual_seed(0))
    options |= {"epochs": 3, "validation": 16, "optimizer": PLAIN, "eps": 0.1}
    trainer = ScriptedRobust([torch.zeros_like(robust), robust, brittle], 2)
    result = fit(model(), tiny, "one-hot", trainer, **options)
    assert result.best["epoch"] == 2
    for name in ("validation_robust_accuracy", "validation_accuracy"):
        assert result.best[name] == result.history[1][name]
    assert (
        result.history[1]["validation_robust_accuracy"]
        > result.history[2]["validation_robust_accuracy"]
    )


def test_the_average_competes_with_the_raw_weights(
    tiny: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """weight_averaging is "evaluated too": where it is better it is the best checkpoint."""
    x, y = tiny
    good = prototypes(x, y, 10.0)
    options |= {"epochs": 1, "validation": 16, "optimizer": PLAIN}
    trainer = Scripted([good, -0.01 * good], 1)  # the average of the two is still right
    result = fit(
        model(),
        tiny,
        "one-hot",
        trainer,
        weight_averaging=0.5,
        out=tmp_path / "run",
        **options,
    )
    assert result.best["weights"] == "average"
    assert result.best["validation_accuracy_average"] > result.best["validation_accuracy"]
    assert result.average is not None
    assert torch.equal(result.model[1].weight, result.average["1.weight"])
    best = runs.load_weights(tmp_path / "run" / runs.BEST)
    average = runs.load_weights(tmp_path / "run" / runs.AVERAGE)
    assert torch.equal(best["1.weight"], average["1.weight"])


@pytest.mark.parametrize("averaging", [None, 0.5])
def test_without_validation_the_last_weights_are_kept(
    tiny: Any, options: dict[str, Any], tmp_path: Path, averaging: float | None
) -> None:
    """Averaged ones with weight averaging; and the record must say which, as it does else."""
    options |= {"epochs": 2, "weight_averaging": averaging}
    result = fit(model(), tiny, "one-hot", "standard", out=tmp_path / "run", **options)
    kept = result.average if averaging else result.last
    assert kept is not None
    assert torch.equal(result.model[1].weight, kept["1.weight"])
    assert result.best["epoch"] == 2
    assert result.best["weights"] == ("average" if averaging else "raw")
    assert "validation_accuracy" not in result.history[-1]


def test_validate_every(tiny: Any, options: dict[str, Any]) -> None:
    """Every second epoch, and the last one always."""
    options |= {"epochs": 5, "validation": 16, "validate_every": 2}
    result = fit(model(), tiny, "one-hot", "pgd-at", **options)
    assert [r["epoch"] for r in result.history if "validation_accuracy" in r] == [2, 4, 5]
    assert [r["epoch"] for r in result.history if "validation_robust_accuracy" in r] == [2, 4, 5]


def test_validation_does_not_disturb_training(tiny: Any, options: dict[str, Any]) -> None:
    """Looking more often must not change the weights: random numbers, modes, statistics."""
    made = []
    for every in (1, 3):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, K))
        options |= {"epochs": 3, "validation": 16, "validate_every": every}
        made.append(fit(net, tiny, "adr", "pgd-at", **options).last)
    assert all(torch.equal(made[0][k], made[1][k]) for k in made[0])


def test_validate_by_hand() -> None:
    """Only samples that are right before and after the attack are robust; virtual classes are
    never the answer; a ragged last batch counts by its samples."""

    class Table(nn.Module):
        """Logits are the pixels: two real classes and a virtual one."""

        def __init__(self) -> None:
            super().__init__()
            self.bn = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    x = torch.tensor(
        [[0.9, 0.1, 1.0], [0.2, 0.8, 0.0], [0.6, 0.5, 0.0], [0.1, 0.3, 1.0], [0.7, 0.2, 0.0]]
    ).reshape(5, 3, 1, 1)
    y = torch.tensor([0, 1, 0, 0, 1])  # right, right, right, wrong, wrong
    split = TensorSplit(x, y)
    widths = set()
    table = Table().train()

    def one_less(judged: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Turns the answers around where the first pixel is .9 or .7."""
        assert not judged.training
        widths.add(judged(x).shape[1])
        turn = (x[:, :1] == 0.9) | (x[:, :1] == 0.7)
        return torch.where(turn, 1 - x, x)

    found = validate(
        table,
        split,
        torch.tensor([0, 1, 3, 2, 4]),
        num_classes=2,
        attack=one_less,
        batch_size=2,
        device=torch.device("cpu"),
    )
    assert found.clean == 3 / 5
    assert found.robust == 2 / 5  # sample 0 lost; sample 4, made right, was wrong before
    assert widths == {2}
    assert table.training
    assert table.bn.training

    def turned(judged: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return 1 - x  # every answer turns around: wrong ones become right

    again = validate(
        table,
        split,
        torch.arange(5),
        num_classes=2,
        attack=turned,
        batch_size=3,
        device=torch.device("cpu"),
    )
    assert (again.clean, again.robust) == (0.6, 0.0)
    assert again.rank == (0.0, 0.6)


def test_validation_uses_hard_labels_and_real_classes(tiny: Any, options: dict[str, Any]) -> None:
    """Never evaluate with soft labels, and never over virtual classes: both look more robust."""
    from robustlabels.training import engine

    seen: list[tuple[int, torch.dtype, int]] = []
    genuine = engine.PGD.__call__

    class Watching(PGDTraining):
        def inputs(self, step: Any) -> None:
            step.x_adv = step.x

    def watched(self: Any, m: nn.Module, x: Tensor, y: Tensor, start: Any = None) -> Tensor:
        with torch.no_grad():
            seen.append((m(x).shape[1], y.dtype, self.steps))
        return genuine(self, m, x, y, start)

    options |= {"validation": 16}
    scheme = {"name": "vs", "inner": "adr"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.PGD, "__call__", watched)
        fit(model(), tiny, scheme, Watching(), **options)
    assert seen == [(K, torch.int64, 10)]


class Lazy(Dataset):
    """A data set that is read item by item, and counts what is read."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets, self.read = x, y.tolist(), set()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        self.read.add(i)
        return self.x[i], self.targets[i]


FORMS: dict[str, Any] = {
    "pair": lambda train, own, test: {"data": (train, test), "validation": own},
    "triple": lambda *parts: {"data": parts},
    "data sets": lambda *parts: {"data": tuple(Lazy(*part) for part in parts)},
    "mixed": lambda train, own, test: {"data": (train, test), "validation": Lazy(*own)},
    "loader": lambda train, own, test: {
        "data": (train, test),
        "validation": DataLoader(Lazy(*own), batch_size=5),
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_the_users_validation_set_chooses(
    tiny: Any, options: dict[str, Any], tmp_path: Path, form: str
) -> None:
    """All of the training data are trained on, and the accuracies are those of the given images."""
    x, y = tiny
    parts = ((x[:32], y[:32]), (x[32:41], y[32:41]), (x[41:], y[41:]))
    options |= {"validation": None, "epochs": 3, "out": tmp_path / "run"}
    options |= FORMS[form](*parts)

    def linear() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    result = fit(linear(), scheme="one-hot", trainer="standard", **options)
    without = {**options, "out": None, "data": parts[0], "validation": 0}
    plain = fit(linear(), scheme="one-hot", trainer="standard", **without)
    assert torch.equal(result.last["1.weight"], plain.last["1.weight"])

    last = linear()
    last.load_state_dict(result.last)
    for found, (images, labels) in (
        (result.history[-1]["validation_accuracy"], parts[1]),
        (result.test_accuracy, parts[2]),
    ):
        judged = last if found is result.history[-1]["validation_accuracy"] else result.model
        assert found == pytest.approx(float((judged(images).argmax(1) == labels).double().mean()))
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (summary["train_samples"], summary["validation_samples"]) == (32, 9)
    assert "validation" in summary["opaque"]


def test_a_validation_set_of_a_named_data_set(options: dict[str, Any]) -> None:
    """Names have splits of their own; the given images choose all the same."""
    x, y = torch.rand(7, 1, 8, 8), torch.arange(7)
    options |= {"validation": (x, y)}
    result = fit("linear", "digits", "one-hot", "standard", **options)
    assert result.config.validation == 7
    assert result.history[0]["validation_accuracy"] * 7 == pytest.approx(
        round(result.history[0]["validation_accuracy"] * 7)
    )


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        ((torch.rand(4, 1, 5, 5), torch.arange(4) % 3), "different shapes"),
        ((torch.rand(4, 1, 4, 4), torch.full((4,), 7)), "labels"),
        (torch.rand(4, 1, 4, 4), r"must be a pair \(x, y\)"),
    ],
)
def test_impossible_validation_sets(
    tiny: Any, options: dict[str, Any], validation: Any, message: str
) -> None:
    """One line, before training."""
    options |= {"validation": validation, "num_classes": 3}
    with pytest.raises(ValueError, match=message) as caught:
        fit({"name": "mlp", "hidden": [4]}, tiny, "one-hot", "standard", **options)
    assert "\n" not in str(caught.value)


def test_two_validation_sets_are_refused(tiny: Any, options: dict[str, Any]) -> None:
    """One of them would be ignored."""
    options |= {"validation": 0.1}
    with pytest.raises(ValueError, match="given twice"):
        fit({"name": "mlp", "hidden": [4]}, (tiny, tiny, tiny), "one-hot", "standard", **options)


def test_test_images_as_validation_set_warn(tiny: Any, options: dict[str, Any]) -> None:
    """Weights that test images chose are judged too well, and a submission would hide it."""
    x, y = tiny
    options |= {"validation": (x[30:], y[30:])}
    with pytest.warns(RobustLabelsWarning, match="8 of the 18 validation images are test images"):
        fit(model(), ((x[:30], y[:30]), (x[40:], y[40:])), "one-hot", "standard", **options)
