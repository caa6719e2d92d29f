"""fit() from the outside: what it takes, what it leaves alone, what it gives back."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from robustlabels import make_model, make_scheme, real_classes, runs
from robustlabels.attacks import PGD
from robustlabels.errors import RunError
from robustlabels.labels import OneHot, VirtualSmoothing
from robustlabels.training import Standard, fit, load_run

K = 3
MLP = {"name": "mlp", "hidden": [8]}


def net(outputs: int = K) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# What it takes.


class Items(Dataset[Any]):
    """A map-style data set that lists its labels, as torchvision's do."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.targets = x, y.tolist()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Any:
        return self.x[i], self.targets[i]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: [x, y],
        TensorDataset,
        Items,
        lambda x, y: DataLoader(Items(x, y), batch_size=7, shuffle=True),
        lambda x, y: (Items(x, y), Items(x, y)),
    ],
    ids=["arrays", "list", "TensorDataset", "Dataset", "DataLoader", "pair of Datasets"],
)
def test_the_same_data_in_any_wrapping_train_the_same_model(
    tiny: Any, options: dict[str, Any], wrap: Any
) -> None:
    """A loader's own shuffling or batch size must not leak in; a pair of data sets is no pair of
    arrays."""
    expected = fit(net(), tiny, "als", **options)
    found = fit(net(), wrap(*tiny), "als", **options)
    assert same(expected.last, found.last)


def test_uint8_images(tiny: Any, options: dict[str, Any]) -> None:
    """0 to 255 are [0, 1] in the model, exactly."""
    x, y = tiny
    bytes_ = (x * 255).round().to(torch.uint8)
    a = fit(net(), (bytes_, y), "als", **options)
    b = fit(net(), (bytes_.float() / 255, y), "als", **options)
    assert same(a.last, b.last)


def test_names_tables_and_objects_are_the_same(tiny: Any, options: dict[str, Any]) -> None:
    """Three ways to say one thing."""
    found = [
        fit(net(), tiny, scheme, trainer, attack, eps=eps, **options).last
        for scheme, trainer, attack, eps in (
            ("ls", "pgd-at", None, "8/255"),
            ({"name": "ls", "alpha": 0.1}, {"name": "pgd-at"}, "pgd", 8 / 255),
            (make_scheme("ls", K), "pgd-at", {"name": "pgd", "steps": 10}, "8/255"),
            ("ls", "pgd-at", PGD("8/255"), "8/255"),
        )
    ]
    assert all(same(found[0], other) for other in found[1:])


def test_defaults_are_the_designs(tiny: Any) -> None:
    """eps 8/255, PGD-10 at 2/255; the resolved config says so."""
    config = fit(MLP, tiny, epochs=1).config
    assert (config.eps, config.norm, config.batch_size) == ("8/255", "Linf", 128)
    assert (config.trainer.name, config.labels.name, config.attack.name) == (
        "pgd-at",
        "one-hot",
        "pgd",
    )
    attack = PGD("8/255")
    assert (attack.steps, attack.start, attack.loss, attack.mode) == (10, "uniform", "ce", "eval")


def test_a_trainers_attack_defaults_are_in_the_config_and_overridden(
    tiny: Any, options: dict[str, Any]
) -> None:
    """The config is resolved and complete: it must say what was run, not what was asked."""
    trades = fit(MLP, tiny, "ls", "trades", **options).config.attack
    written = {"steps": 10, "mode": "eval", "restarts": 1}  # PGD's own, written out
    assert trades.params == written | {"loss": "kl", "start": "gaussian"}
    mine = fit(MLP, tiny, "ls", "trades", {"name": "pgd", "start": "none"}, **options)
    assert mine.config.attack.params == written | {"loss": "kl", "start": "none"}
    assert mine.config.labels.params == {"alpha": 0.1}
    assert mine.config.trainer.params == {"beta": 6.0, "inner": "kl", "concatenated": False}
    fast = fit(MLP, tiny, "ls", "fast-at", eps=0.2, **options).config.attack
    mine = {"start": "uniform", "loss": "ce", "mode": "eval", "restarts": 1}
    assert fast.params == mine | {"steps": 1, "step_size": 0.25}


def test_trades_with_another_attack_does_not_get_pgds_parameters(
    tiny: Any, options: dict[str, Any]
) -> None:
    """fgsm has no loss="kl": the defaults are PGD's only."""
    fgsm = fit(MLP, tiny, "ls", "trades", "fgsm", **options).config.attack
    assert fgsm.params == {"start": "none", "mode": "eval"}


def test_the_scheme_widens_a_given_module(tiny: Any, options: dict[str, Any]) -> None:
    """In place, the old rows kept; a model that has the outputs already stays as it is."""
    model = net()
    result = fit(model, tiny, "vs", "standard", **options)
    assert result.model is model
    assert model[1].out_features == 2 * K
    ready = net(2 * K)
    parameter = ready[1].weight
    fit(ready, tiny, "vs", "standard", **options)
    assert ready[1].weight is parameter


def test_a_model_without_a_linear_head(tiny: Any, options: dict[str, Any]) -> None:
    """Any classifier: fully convolutional ones have no linear layer, and need none where the
    outputs fit; nor need the last linear layer be the head."""
    conv = nn.Sequential(nn.Conv2d(1, K, 4), nn.Flatten())
    assert fit(conv, tiny, "ls", **options).model is conv
    early = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 9), nn.Unflatten(1, (9, 1)), nn.Conv1d(9, K, 1), nn.Flatten()
    )
    assert fit(early, tiny, "ls", **options).model is early
    with pytest.raises(ValueError, match="Linear"):
        fit(nn.Sequential(nn.Conv2d(1, K, 4), nn.Flatten()), tiny, "vs", **options)


# What it leaves alone.


def test_the_callers_random_numbers(tiny: Any, options: dict[str, Any]) -> None:
    """A fit in the middle of an experiment must not seed the rest of it."""

    def state() -> Any:
        return torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()

    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    before = state()
    fit(MLP, tiny, "mixup", **options)
    after = state()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]

    class Fails(Standard):
        def loss(self, step: Any) -> Tensor:
            raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        fit(MLP, tiny, "ls", Fails(), **options)
    assert torch.equal(before[0], torch.get_rng_state())


@pytest.mark.parametrize("checks", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_check_values_of_the_users_scheme(
    tiny: Any, options: dict[str, Any], checks: bool, fails: bool
) -> None:
    """Switched off for speed while training; left off, the user's own loop would be unchecked."""
    scheme = VirtualSmoothing(K, inner=OneHot(K))
    scheme.check_values = checks
    seen = []

    class Looking(Standard):
        def loss(self, step: Any) -> Tensor:
            seen.append((scheme.check_values, scheme.inner.check_values))
            if fails:
                raise OSError("mine")
            return super().loss(step)

    if fails:
        with pytest.raises(OSError, match="mine"):
            fit(net(), tiny, scheme, Looking(), **options)
    else:
        fit(net(), tiny, scheme, Looking(), **options)
    assert set(seen) == {(False, False)}
    assert (scheme.check_values, scheme.inner.check_values) == (checks, checks)


def test_the_data_are_left_alone(tiny: Any, options: dict[str, Any]) -> None:
    """They may be used again."""
    x, y = tiny
    before = x.clone(), y.clone()
    options["augment"] = {"crop_padding": 1, "flip": True}
    fit(net(), (x, y), "mixup", **options)
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


# What it gives back.


def test_the_result(tiny: Any, tmp_path: Path) -> None:
    """Best weights in eval mode, every epoch's record, the resolved config, the folder."""
    calls: list[Any] = []
    x, y = tiny
    result = fit(
        MLP,
        ((x, y), (x[:7], y[:7])),
        "vs",
        epochs=2,
        batch_size=16,
        validation=16,
        out=tmp_path / "deep" / "run",
        progress=lambda *a: calls.append(a),
    )
    assert not any(m.training for m in result.model.modules())
    assert [(d, t) for d, t, r in calls if r is None] == [(i, 4) for i in range(1, 5)]
    assert [r["epoch"] for _, _, r in calls if r is not None] == [1, 2]
    assert [r["epoch"] for r in result.history] == [1, 2]
    assert result.stopped is None
    assert result.out == tmp_path / "deep" / "run"
    with torch.no_grad():
        right = result.model(x[:7])[:, :K].argmax(dim=1) == y[:7]
    assert result.test_accuracy == pytest.approx(right.double().mean().item())
    files = sorted(p.name for p in result.out.iterdir())
    assert files == sorted(
        [runs.CONFIG, runs.LAST, runs.METRICS, runs.SUMMARY, runs.STATE, runs.BEST]
    )
    summary = json.loads((result.out / runs.SUMMARY).read_text())
    assert summary["status"] == "finished"
    assert summary["num_outputs"] == 2 * K
    assert (summary["train_samples"], summary["validation_samples"]) == (32, 16)
    assert summary["opaque"] == ["data"]
    assert summary["weights_sha256"] == runs.sha256(result.out / runs.BEST)
    assert {"python", "torch", "robustlabels"} <= summary["versions"].keys()
    lines = (result.out / runs.METRICS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history


@pytest.mark.filterwarnings("ignore:weight_averaging is")
@pytest.mark.parametrize("which", ["best", "last", "average"])
@pytest.mark.parametrize("scheme", ["vs", {"name": "adr", "temperature": (2.0, 1.0)}])
def test_a_run_loads_to_the_same_logits(tiny: Any, tmp_path: Path, which: str, scheme: Any) -> None:
    """What is evaluated must be what was trained: architecture, outputs, buffers."""
    out = tmp_path / "run"
    result = fit(
        {"name": "small-cnn", "width": 2},
        tiny,
        scheme,
        out=out,
        epochs=2,
        batch_size=16,
        validation=16,
        weight_averaging=0.5,
    )
    run = load_run(out, which)
    weights = {"best": result.model.state_dict(), "last": result.last, "average": result.average}
    result.model.load_state_dict(weights[which])  # type: ignore[arg-type]
    x = torch.rand(4, 1, 4, 4)
    assert torch.equal(run.model(x), result.model(x))
    assert not run.model.training
    assert run.num_classes == K
    assert run.scheme.num_outputs == result.scheme.num_outputs
    assert run.config == result.config
    assert real_classes(run.model, run.num_classes)(x).shape == (4, K)


def test_a_run_of_a_given_model_says_how_to_load_it(
    tiny: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """No name can build it."""
    fit(net(), tiny, "ls", out=tmp_path / "run", **options)
    with pytest.raises(RunError, match="given from Python"):
        load_run(tmp_path / "run")
    state = runs.load_weights(tmp_path / "run" / runs.BEST)
    net().load_state_dict(state)


def test_an_unfinished_run_does_not_load(tiny: Any, options: dict[str, Any], tmp_path: Path):
    """Half-trained weights as if they were a result."""

    def stop(done: int, total: int, record: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(MLP, tiny, "ls", out=tmp_path / "run", progress=stop, **options)
    for which in ("best", "last", "average"):
        with pytest.raises(RunError, match="finished"):
            load_run(tmp_path / "run", which)
    with pytest.raises(RunError, match="best, last, average"):
        load_run(tmp_path / "run", "bets")
    with pytest.raises(RunError, match="not a run"):
        load_run(tmp_path)


# Third parties, without our base classes.


@dataclass(frozen=True)
class FrozenScheme:
    """A frozen dataclass: nothing can be set on it the usual way."""

    num_classes: int = K
    num_outputs: int = K
    needs: frozenset[str] = frozenset({"logits"})

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return torch.eye(self.num_classes)[y] * 0.9 + 0.1 / self.num_classes


class SlottedScheme:
    """With __slots__, and so with every attribute of the contract as its own."""

    __slots__ = ()
    num_classes = num_outputs = K
    needs: frozenset[str] = frozenset()
    teacher = None
    ema_decay = 0.9
    attack_labels = "hard"
    check_values = True

    def perturb(self, x, y, generator=None):
        return x, None

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return torch.eye(K)[y] * 0.9 + 0.1 / K


class PlainTrainer:
    """Three methods, and nothing of ours."""

    def setup(self, run):
        self.classes = run.num_classes
        self.width = run.scheme.num_outputs

    def inputs(self, step):
        step.x_adv = step.attack()

    def loss(self, step):
        assert not step.x_adv.requires_grad
        return step.ce(step.model(step.x_adv))


@pytest.mark.parametrize("scheme", [FrozenScheme, SlottedScheme])
def test_duck_typed_scheme_and_trainer(
    tiny: Any, options: dict[str, Any], tmp_path: Path, scheme: Any
) -> None:
    """No base class is needed: theirs must train as our own of the same definition, bit for
    bit."""
    trainer = PlainTrainer()
    found = fit(net(), tiny, scheme(), trainer, out=tmp_path / "run", **options)
    ours = fit(net(), tiny, {"name": "ls", "alpha": 0.1}, "pgd-at", **options)
    for name, value in found.last.items():
        torch.testing.assert_close(value, ours.last[name], atol=1e-6, rtol=0)
    assert (trainer.classes, trainer.width) == (K, K)


def test_extra_outputs_are_ordinary_classes_to_the_scheme(
    tiny: Any, options: dict[str, Any]
) -> None:
    """ssl's R reject classes: the scheme has K + R classes, and vs adds its virtual ones after
    them; only the first K are ever judged."""
    seen = []

    class Rejecting(Standard):
        extra_outputs = 2

        def setup(self, run: Any) -> None:
            seen.append((run.num_classes, run.scheme.num_classes, run.scheme.num_outputs))

        def loss(self, step: Any) -> Tensor:
            seen.append((step.num_classes, *step.labels().shape[1:]))
            return super().loss(step)

    x, y = tiny
    options["validation"] = 16
    scheme = {"name": "vs", "virtual_classes": 4}
    result = fit(MLP, ((x, y), (x, y)), scheme, Rejecting(), **options)
    assert seen == [(K, K + 2, K + 6)] + [(K, K + 6)] * 2
    with torch.no_grad():
        right = result.model(x)[:, :K].argmax(dim=1) == y
    assert result.test_accuracy == pytest.approx(right.double().mean().item())
    with pytest.raises(ValueError, match="classes"):
        fit(MLP, tiny, make_scheme("ls", K), Rejecting(), **options)


def test_setup_may_ask_for_a_teacher(tiny: Any, options: dict[str, Any]) -> None:
    """kd and ard need one whatever the scheme: frozen, in eval mode, with K outputs."""
    found = []

    class Distils(Standard):
        def setup(self, run: Any) -> None:
            self.teacher = run.teacher()
            found.append(self.teacher)

    teacher = net(K + 2)
    fit(net(), tiny, "ls", Distils(), teacher=teacher, **options)
    (got,) = found
    assert got(tiny[0]).shape == (48, K)
    assert not got.training
    assert not any(p.requires_grad for p in got.parameters())
    assert all(p.requires_grad for p in teacher.parameters())
    with pytest.raises(ValueError, match="needs a teacher"):
        fit(net(), tiny, "ls", Distils(), **options)


# LTD's teacher.


def test_ltd_end_to_end(tiny: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """A natural teacher, then a student by TRADES with inner="ce"; a RUN folder, a checkpoint and
    a module must be the same teacher."""
    options["optimizer"] = {"lr": 0.3}
    fit(MLP, tiny, "one-hot", "standard", out=tmp_path / "t", **{**options, "epochs": 6})
    teacher = load_run(tmp_path / "t")
    torch.save({"state_dict": teacher.model.state_dict()}, tmp_path / "teacher.pt")
    students = [
        fit(MLP, tiny, "ltd", {"name": "trades", "inner": "ce"}, teacher=named, **options).last
        for named in (
            tmp_path / "t",
            str(tmp_path / "t"),
            tmp_path / "t" / runs.BEST,
            tmp_path / "teacher.pt",
            teacher.model,
        )
    ]
    assert all(same(students[0], other) for other in students[1:])
    other = make_model("mlp", K, (1, 4, 4), hidden=[8])
    stranger = fit(MLP, tiny, "ltd", {"name": "trades", "inner": "ce"}, teacher=other, **options)
    assert not same(students[0], stranger.last)


def test_the_teacher_is_a_copy_and_stays_as_it_was(tiny: Any, options: dict[str, Any]) -> None:
    """Distilling from the student's own start: if the teacher were the student it would move."""
    teacher = net()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    fit(teacher, tiny, "ltd", teacher=teacher, **options)
    assert not same(teacher.state_dict(), before)  # as the student it was trained
    frozen = net().train()
    fit(net(), tiny, "ltd", teacher=frozen, **options)
    assert same(frozen.state_dict(), before)
    assert frozen.training


def test_a_virtual_run_as_teacher(tiny: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """Its first K logits are the teacher's; K + V wide they would not fit ltd."""
    fit(MLP, tiny, "vs", "standard", out=tmp_path / "t", **options)
    fit(MLP, tiny, "ltd", teacher=tmp_path / "t", **options)
    fit(MLP, tiny, {"name": "vs", "inner": "ltd"}, teacher=tmp_path / "t", **options)


def test_namespace_is_no_scheme(tiny: Any, options: dict[str, Any]) -> None:
    """A typo in a plugin's attribute."""
    with pytest.raises(ValueError, match="num_outputs"):
        fit(net(), tiny, SimpleNamespace(num_classes=K, needs=(), labels=len), **options)
