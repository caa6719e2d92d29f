"""Extra data: in the batch (labelled or pseudo-labelled), or beside it as ``step.extra``."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels import list_schemes
from robustlabels.config import Config
from robustlabels.errors import RobustLabelsWarning
from robustlabels.runs import RunFolder, load_weights
from robustlabels.testing import check_trainer
from robustlabels.training import PGDTraining, Standard, fit
from robustlabels.training.extra import LABELS_FILE

K = 3
MLP = {"name": "mlp", "hidden": [8]}


@pytest.fixture
def more() -> tuple[Tensor, Tensor]:
    """20 images (1, 4, 4) that are none of ``tiny``'s, and their classes."""
    generator = torch.Generator().manual_seed(9)
    return torch.rand(20, 1, 4, 4, generator=generator), torch.arange(20) % K


class Teacher(nn.Module):
    """The class is where the brightest quarter is; counts its images, and has virtual classes."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []
        self.broken = broken
        self.drop = nn.Dropout(0.9)

    def __deepcopy__(self, memo: Any) -> Teacher:
        return self

    def forward(self, x: Tensor) -> Tensor:
        assert not self.broken
        self.seen.append(x.clone())
        self.modes.append(self.training)
        real = torch.stack([q.flatten(1).mean(1) for q in quarters(x)], dim=1)
        return torch.cat([self.drop(real), torch.full((len(x), 2), 9.0)], dim=1)


def quarters(x: Tensor) -> list[Tensor]:
    return [
        x[..., 2 * (k // 2) : 2 * (k // 2) + 2, 2 * (k % 2) : 2 * (k % 2) + 2] for k in range(K)
    ]


def by_hand(x: Tensor) -> Tensor:
    return torch.stack([q.double().flatten(1).mean(1) for q in quarters(x)], dim=1).argmax(dim=1)


class Looking(PGDTraining):
    """Keeps each step."""

    takes_extra = False

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.run: Any = None

    def setup(self, run: Any) -> None:
        self.run = run

    def loss(self, step: Any) -> Tensor:
        self.steps.append(step)
        return super().loss(step)


class Beside(Looking):
    """A trainer of out-of-distribution detection: pushes the extra images to uniform."""

    takes_extra = True

    def loss(self, step: Any) -> Tensor:
        own = super().loss(step)
        return own - 0.5 * step.model(step.extra.x).log_softmax(dim=1).mean()


def shifted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x + 0.02).clamp(0, 1)


def looked(trainer: Looking, tiny: Any, options: dict[str, Any], **given: Any) -> list[Any]:
    fit(MLP, tiny, "ls", trainer, attack=shifted, **{**options, **given})
    return trainer.steps


# In the batch.


def test_what_a_batch_is_made_of(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """48 samples by 12 of 16 a step: every training sample once an epoch, every extra one once a
    pass over them, in new orders; each image with its own label; spread, so that parts of a batch
    are alike."""
    options["epochs"] = 10
    steps = looked(Looking(), tiny, options, extra=more, extra_fraction=0.25)
    assert len(steps) == 40
    x, y = (torch.cat([a, b]) for a, b in zip(tiny, more, strict=True))
    drawn: list[Tensor] = []
    for step in steps:
        assert torch.equal(step.x, x[step.index])
        assert torch.equal(step.y, y[step.index])
        extra = step.index >= 48
        assert extra.sum() == 4 and step.extra is None
        assert [int(part.sum()) for part in extra.split(4)] == [1, 1, 1, 1]
        drawn.append(step.index[extra] - 48)
    passes = torch.cat(drawn).split(20)
    assert len(passes) == 8
    assert all(torch.equal(p.sort().values, torch.arange(20)) for p in passes)
    assert len({tuple(p.tolist()) for p in passes}) == 8


def test_every_training_sample_once_an_epoch(tiny: Any, more: Any, options: Any) -> None:
    """Extra data must not crowd out the training data."""
    options["epochs"] = 2
    steps = looked(Looking(), tiny, options, extra=more, extra_fraction=0.5)
    assert len(steps) == 12
    for epoch in (steps[:6], steps[6:]):
        index = torch.cat([s.index for s in epoch])
        assert torch.equal(index[index < 48].sort().values, torch.arange(48))


@pytest.mark.parametrize(
    ("fraction", "size", "expected"),
    [
        (0.5, 16, [(8, 8)] * 6),
        (0.75, 16, [(4, 12)] * 12),
        (0.7, 20, [(6, 14)] * 8),
        (0.25, 40, [(30, 10), (18, 6)]),  # the short last batch has its share
        (0.5, 94, [(47, 47)]),  # and a last one of one sample is left out
    ],
)
def test_shares(
    tiny: Any, more: Any, options: Any, fraction: float, size: int, expected: list[Any]
) -> None:
    """extra_fraction is the share of the batch, not the ratio to the rest of it (.75 is ADR's)."""
    options["batch_size"] = size
    steps = looked(Looking(), tiny, options, extra=more, extra_fraction=fraction)
    found = [(int((s.index < 48).sum()), int((s.index >= 48).sum())) for s in steps]
    assert found == expected


def test_the_seed_decides(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """A run must repeat, and another seed must draw anew."""
    orders = []
    for seed in (1, 1, 2):
        steps = looked(Looking(), tiny, options, extra=more, seed=seed)
        orders.append(torch.cat([s.index for s in steps]).tolist())
    assert orders[0] == orders[1] != orders[2]


def test_extra_images_are_augmented_too(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """Else the model can tell them by their missing mirror images."""
    options |= {"augment": {"flip": True}, "epochs": 4}
    x = torch.cat([tiny[0], more[0]])
    steps = looked(Looking(), tiny, options, extra=more)
    mirrored = [
        bool((s.x[i] == x[n].flip(2)).all())
        for s in steps
        for i, n in enumerate(s.index)
        if n >= 48
    ]
    assert 0.3 < np.mean(mirrored) < 0.7


def test_the_loss_is_the_mean_over_all(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """RST's weight of the unlabelled term is 1: half a batch must not count double."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, K))
    weight, bias = (p.detach().double().numpy().copy() for p in model[1].parameters())
    trainer = Looking()
    options |= {"batch_size": 90, "extra_fraction": 42 / 90}
    result = fit(model, tiny, "ls", trainer, attack=shifted, extra=more, **options)
    (step,) = trainer.steps
    z = (step.x + 0.02).clamp(0, 1).flatten(1).double().numpy() @ weight.T + bias
    log_p = z - z.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    q = 0.9 * np.eye(K)[step.y.numpy()] + 0.1 / K
    assert len(q) == 90
    expected = -(q * log_p).sum(1).mean()
    assert result.history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("trainer", ["standard", "pgd-at", "trades", "mart", "fast-at"])
def test_any_scheme_and_objective(
    tiny: Any, more: Any, options: dict[str, Any], trainer: str
) -> None:
    """RST is one row of a table; the others must be one word away."""
    for scheme in [s for s in list_schemes() if ":" not in s]:
        given = {"teacher": Teacher()} if scheme == "ltd" else {}
        result = fit(
            MLP, tiny, scheme, trainer, extra=more, attack=shifted, accumulate=2, awp=True,
            **given, **options,
        )  # fmt: skip
        assert np.isfinite(result.history[0]["train_loss"]), scheme
        assert result.history[0]["step"] == 6


def test_a_torch_data_set(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """Larger sets are read by worker processes, sample by sample."""
    data = list(zip(more[0], more[1].tolist(), strict=True))

    class Items(torch.utils.data.Dataset):
        targets = more[1].tolist()

        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, i: int) -> Any:
            return data[i]

    tensors = looked(Looking(), tiny, options, extra=more)
    items = looked(Looking(), tiny, options, extra=Items())
    for a, b in zip(tensors, items, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.y, b.y)


# Pseudo-labels.


@pytest.mark.parametrize("who", ["extra_teacher", "teacher"])
@pytest.mark.parametrize("labelled", [False, True])
def test_pseudo_labels(
    tiny: Any, more: Any, options: dict[str, Any], tmp_path: Path, who: str, labelled: bool
) -> None:
    """The teacher's most probable real class for the image as it is, in eval mode, each image
    once; kept with the run. Virtual classes, dropout or augmentation would spoil them."""
    teacher, trainer = Teacher(), Looking()
    options |= {"augment": {"crop_padding": 1}, "out": tmp_path / "run", who: teacher}
    extra = more if labelled else more[0]
    steps = looked(trainer, tiny, options, extra=extra, extra_labels="pseudo")
    expected = by_hand(more[0])
    saved = load_weights(tmp_path / "run" / LABELS_FILE)["labels"]
    assert torch.equal(saved, expected)
    assert not torch.equal(expected, more[1])
    for step in steps:
        extra_ones = step.index >= 48
        assert torch.equal(step.y[extra_ones], expected[step.index[extra_ones] - 48])
    seen = torch.cat(teacher.seen[1:])  # the first is fit's own look at its outputs
    assert torch.equal(seen, more[0])
    assert not any(teacher.modes)
    facts = RunFolder.open(tmp_path / "run").summary["extra"]
    assert (facts["labels"], facts["samples"], facts["in_a_batch"]) == ("pseudo", 20, 8)


def test_resumed_pseudo_labels_are_those_of_the_run(
    tiny: Any, more: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """Half a million images need not be labelled again, and a teacher that has changed since must
    not change half of a run."""

    def stop(done: int, *_: Any) -> None:
        if done == 3:
            raise KeyboardInterrupt

    options |= {"extra": more[0], "extra_labels": "pseudo", "save_every": 1, "epochs": 2}
    run = {"out": tmp_path / "run"}
    whole = fit(MLP, tiny, "ls", "pgd-at", extra_teacher=Teacher(), **options)
    with pytest.raises(KeyboardInterrupt):
        fit(MLP, tiny, "ls", "pgd-at", extra_teacher=Teacher(), progress=stop, **run, **options)
    broken = Teacher(broken=True)
    again = fit(MLP, tiny, "ls", "pgd-at", extra_teacher=broken, resume=True, **run, **options)
    assert all(torch.equal(whole.last[k], again.last[k]) for k in whole.last)


def test_another_extra_set_does_not_resume(
    tiny: Any, more: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """A run half on one set and half on another has the name of neither."""
    options["out"] = tmp_path / "run"
    fit(MLP, tiny, "ls", "standard", extra=more, **options)
    changed = (more[0], more[1].flip(0))
    with pytest.raises(RuntimeError, match="trained on other data: extra differs"):
        fit(MLP, tiny, "ls", "standard", extra=changed, resume=True, **options)


# Beside the batch.


@pytest.mark.parametrize("labels", [None, "own", "pseudo"])
def test_beside_the_batch(
    tiny: Any, more: Any, options: dict[str, Any], labels: str | None
) -> None:
    """Outliers are no samples of the classes: the batch, its labels and its attack must not see
    them, and the share means the same as ever."""
    trainer = Beside()
    options |= {"extra_labels": labels, "extra_teacher": Teacher()} if labels else {}
    options = {k: v for k, v in options.items() if labels == "pseudo" or k != "extra_teacher"}
    given = more if labels == "own" else more[0]
    steps = looked(trainer, tiny, options, extra=given, extra_fraction=0.75)
    assert len(steps) == 12
    assert len(trainer.run.extra_data) == 20
    for step in steps:
        assert torch.equal(step.x, tiny[0][step.index])
        assert len(step.x) == 4
        assert torch.equal(step.extra.x, more[0][step.extra.index])
        assert len(step.extra.x) == 12
        if labels is None:
            assert step.extra.y is None
        else:
            y = more[1] if labels == "own" else by_hand(more[0])
            assert torch.equal(step.extra.y, y[step.extra.index])


def test_images_beside_are_augmented_too(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """An outlier that is known by its missing mirror images teaches nothing."""
    options |= {"augment": {"flip": True}, "epochs": 4}
    steps = looked(Beside(), tiny, options, extra=more[0])
    flipped = [
        bool((x == more[0][n].flip(2)).all())
        for s in steps
        for x, n in zip(s.extra.x, s.extra.index, strict=True)
    ]
    assert 0.3 < np.mean(flipped) < 0.7


def test_outliers_may_have_other_classes(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """Their labels are not the data set's."""
    steps = looked(Beside(), tiny, options, extra=(more[0], torch.arange(20) + 90))
    assert torch.equal(steps[0].extra.y, steps[0].extra.index + 90)


def test_parts_and_weight_perturbation(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """Every outlier must be in one part, and both passes of AWP must see the same ones."""
    trainer = Beside()
    options |= {"accumulate": 3, "augment": {"flip": True}, "awp": {"gamma": 0.1}}
    steps = looked(trainer, tiny, options, extra=more[0])
    assert len(steps) == 6 * 3 * 2  # steps, parts, passes
    for six in [steps[i : i + 6] for i in range(0, 36, 6)]:
        for first, second in zip(six[:3], six[3:], strict=True):
            assert first is second
        assert [len(s.extra.x) for s in six[:3]] == [3, 3, 2] == [len(s.x) for s in six[:3]]
    drawn = torch.cat([s.extra.index for i, s in enumerate(steps) if i % 6 < 3])
    assert torch.equal(drawn[:20].sort().values, torch.arange(20))


def test_without_extra_data_there_are_none(tiny: Any, options: dict[str, Any]) -> None:
    """A trainer decides itself whether it can do without."""

    class Careful(Standard):
        takes_extra = True

        def setup(self, run: Any) -> None:
            if run.extra_data is None:
                raise ValueError("outliers are missing: --extra")

    with pytest.raises(ValueError, match="outliers are missing"):
        fit(MLP, tiny, "ls", Careful(), **options)


class Outliers:
    """Outlier exposure in a few lines, as a plugin would have it."""

    takes_extra = True
    adversarial = False

    def setup(self, run: Any) -> None:
        if run.extra_data is None:
            raise ValueError("outliers are missing: --extra")

    def inputs(self, step: Any) -> None:
        step.x_adv = None

    def loss(self, step: Any) -> Tensor:
        away = step.model(step.extra.x)[:, : step.num_classes].log_softmax(dim=1).mean()
        return step.ce(step.model(step.x)) - 0.5 * away


def test_the_test_kit_offers_extra_data() -> None:
    """Authors of such trainers could not check them."""
    check_trainer(Outliers)


# From files.


@pytest.fixture
def files(tmp_path: Path, more: Any) -> Path:
    x = (more[0].squeeze(1).numpy() * 255).round().astype(np.uint8)
    np.savez(tmp_path / "nhwc.npz", image=x[..., None])
    np.savez(tmp_path / "bare.npz", image=x)
    np.savez(tmp_path / "named.npz", images=x, labels=more[1].numpy())
    np.savez(tmp_path / "both.npz", x_train=x, y_train=more[1], x_test=x[:5], y_test=more[1][:5])
    np.savez(tmp_path / "test.npz", x_test=x, y_test=more[1])
    np.savez(tmp_path / "large.npz", images=np.zeros((9, 8, 8, 1), np.uint8), labels=np.zeros(9))
    np.savez(tmp_path / "nothing.npz", pictures=x)
    return tmp_path


@pytest.mark.parametrize("name", ["named", "both", "bare", "nhwc"])
def test_npz_files(tiny: Any, more: Any, files: Path, options: dict[str, Any], name: str) -> None:
    """Synthetic images come as .npz, with or without labels."""
    extra: Any = f"npz:{files / name}.npz"
    if name == "nhwc":
        extra = {"name": "npz:nhwc.npz", "root": str(files), "layout": "NHWC"}
    if name in ("bare", "nhwc"):
        options |= {"extra_labels": "pseudo", "extra_teacher": Teacher()}
    trainer = Looking()
    steps = looked(trainer, tiny, options, extra=extra)
    rounded = (more[0] * 255).round() / 255
    y = by_hand(rounded) if name in ("bare", "nhwc") else more[1]
    for step in steps:
        places = step.index[step.index >= 48] - 48
        torch.testing.assert_close(step.x[step.index >= 48], rounded[places], atol=1e-6, rtol=0)
        assert torch.equal(step.y[step.index >= 48], y[places])


# Bad input.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"extra_fraction": 0.5}, "extra_fraction needs extra"),
        ({"extra_labels": "own"}, "extra_labels needs extra"),
        ({"extra_teacher": "runs/t"}, "extra_teacher needs extra"),
        ({"extra": "both", "extra_fraction": 1.0}, "extra_fraction must be less than 1, not 1.0"),
        ({"extra": "both", "extra_fraction": 0.01}, r"0.01 of batch_size 16 is 0 samples"),
        ({"extra": "both", "extra_fraction": 0.99}, r"0.99 of batch_size 16 is 16 samples"),
        ({"extra": "both", "extra_labels": "soft"}, "extra_labels must be 'own' or 'pseudo'"),
        ({"extra": "both", "extra_teacher": "runs/t"}, "is for extra_labels='pseudo'"),
        ({"extra": "bare"}, "bare.npz' have no labels: extra_labels='pseudo' has a teacher"),
        ({"extra": "both", "extra_labels": "pseudo"}, "without extra_teacher needs a teacher"),
        ({"extra": "large"}, r"labels of .*large.npz must be integers"),
        ({"extra": "test"}, "has no training split"),
        ({"extra": "nothing"}, "lacks the arrays x_train"),
        ({"extra": "missing"}, "there is no file"),
        ({"extra": "digits"}, r"images \(1, 8, 8\), and 'user' has \(1, 4, 4\)"),
        ({"extra": "digit"}, "unknown data set 'digit'; did you mean 'digits'"),
        ({"extra": {"name": "npz:x.npz", "layout": "CHW"}}, "layout must be one of auto"),
        ({"extra": {"fraction": 0.5}}, "extra.name"),
        ({"extra": 7}, "extra data: data must be a DataSet"),
        ({"extra": torch.rand(9, 1, 4, 4) + 1}, r"extra images must be finite and in \[0, 1\]"),
        ({"extra": torch.rand(4)}, r"extra images must have shape \(N, C, H, W\)"),
        ({"extra": (torch.rand(9, 1, 4, 4), torch.arange(8))}, "have 9 images and 8 labels"),
        (
            {"extra": (torch.rand(9, 1, 4, 4), torch.arange(9))},
            r"must be in \[0, 2\], but number 3",
        ),
        ({"extra": (torch.rand(9, 1, 4, 4), torch.rand(9))}, "must be integers"),
    ],
)
def test_refused(
    tiny: Any, files: Path, options: dict[str, Any], given: dict[str, Any], message: str
) -> None:
    """One line: what is wrong, and what to do; nothing is written."""
    extra = given.get("extra")
    if extra in ("both", "bare", "large", "test", "nothing", "missing"):
        given = {**given, "extra": f"npz:{files / str(extra)}.npz"}
    with pytest.raises((ValueError, KeyError), match=message) as caught:
        fit(MLP, tiny, "ls", "standard", out=files / "run", **given, **options)
    assert "\n" not in str(caught.value)
    assert not (files / "run").exists()


@pytest.mark.parametrize("bits", [False, True])
def test_test_images_among_them(tiny: Any, more: Any, options: dict[str, Any], bits: bool) -> None:
    """Carmon's source contained CIFAR-10's test set: nobody would notice but by good figures."""
    x, y = more
    test = torch.cat([x[3:5], torch.rand(4, 1, 4, 4)])
    classes = torch.zeros(6).long()
    given = (x * 255).round().to(torch.uint8) if bits else x
    options |= {"scheme": "ls", "trainer": "standard", "extra": (given, y)}
    with pytest.warns(RobustLabelsWarning, match="2 of the 20 extra images are test images"):
        fit(MLP, (tiny, (test, classes)), **options)
    with warnings.catch_warnings(action="error"):
        fit(MLP, (tiny, (test[2:], classes[2:])), **options)
    # and the images that choose the checkpoint
    options |= {"extra": tiny, "validation": 5}
    with pytest.warns(RobustLabelsWarning, match="5 of the 48 extra images are held-out images"):
        fit(MLP, tiny, **options)


def test_more_classes_in_a_torch_data_set(tiny: Any, options: dict[str, Any]) -> None:
    """CIFAR-100 beside CIFAR-10 would fail at some step, inside the loss."""

    class Items(torch.utils.data.Dataset):
        classes = ("a", "b", "c", "d")

        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> Any:
            return torch.zeros(1, 4, 4), i % 4

    with pytest.raises(ValueError, match="have 4 classes, and 'user' has 3: extra_labels='pseudo'"):
        fit(MLP, tiny, "ls", "standard", extra=Items(), **options)


def test_too_few_samples_beside(tiny: Any, more: Any, options: dict[str, Any]) -> None:
    """Batch norm cannot train on the one sample that a large share of outliers leaves."""
    options |= {"extra": more[0], "extra_fraction": 0.9}
    with pytest.raises(ValueError, match="2 samples of batch_size 16 in 2 parts leave"):
        fit({"name": "small-cnn", "width": 2}, tiny, "ls", Beside(), accumulate=2, **options)


def test_the_config_is_complete(tiny: Any, files: Path, options: dict[str, Any]) -> None:
    """config.toml must run again, also when a default changes."""
    out = files / "run"
    fit(MLP, tiny, "ls", "standard", extra=f"npz:{files / 'both'}.npz", out=out, **options)
    config: Config = RunFolder.open(out).config
    assert config.extra is not None and config.extra.name == f"npz:{files / 'both'}.npz"
    assert config.extra_fraction == 0.5
    assert not (out / LABELS_FILE).exists()
    fit(
        MLP, tiny, "ls", "standard", extra=f"npz:{files / 'both'}.npz", out=out, resume=True,
        **options,
    )  # fmt: skip
