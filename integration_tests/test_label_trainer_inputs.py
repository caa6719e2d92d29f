"""What LabelTrainer makes of the inputs, ranges and generators that ART's users have."""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

art = pytest.importorskip("art")
from art.attacks.evasion import ProjectedGradientDescent  # noqa: E402
from art.data_generators import NumpyDataGenerator  # noqa: E402
from art.estimators.classification import PyTorchClassifier  # noqa: E402

from robustlabels.integrations.art import LabelTrainer  # noqa: E402

X, Y = load_digits(return_X_y=True)
X, Y = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)[:130], Y[:130]
SOFT = (0.9 * np.eye(10)[Y] + 0.01).astype(np.float32)
IMAGENET = (-2.1179, 2.64)  # its normalised pixels; neither end is exact in float32


class Net(nn.Module):
    """Keeps the range of what it is trained on, and the sizes of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.fc = nn.Linear(144, 10)
        self.low, self.high = 0.0, 0.0
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.sizes.append(len(x))
            self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        return self.fc(self.norm(self.conv(x)).relu().flatten(1))


def classifier(clip_values: Any = (0.0, 1.0)) -> Any:
    model = Net()
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        (1, 8, 8),
        10,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        clip_values=clip_values,
        device_type="cpu",
    )


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("art").setLevel(logging.ERROR)
    torch.manual_seed(0)
    np.random.seed(0)


def pgd(c: Any, eps: float) -> Any:
    return ProjectedGradientDescent(c, eps=eps, eps_step=eps, max_iter=2, verbose=False)


def test_without_clip_values_validation_data_may_reach_further() -> None:
    """The range is that of both, or the brightest validation image ends the run."""
    c = classifier(clip_values=None)
    trainer = LabelTrainer(c, "ls", eps=0.01)
    trainer.fit(X / 2, Y, (X[:20], Y[:20]), nb_epochs=1)
    assert "validation_accuracy" in trainer.history[0]


def test_without_clip_values_an_attacks_own_eps_counts() -> None:
    """ART's object attacks with its radius, whatever eps is for validation."""
    c = classifier(clip_values=None)
    LabelTrainer(c, "ls", attack=pgd(c, 0.3), eps=0.01).fit(X, Y, nb_epochs=1)
    assert c.model.low == pytest.approx(-0.3, abs=1e-5)
    assert c.model.high == pytest.approx(1.3, abs=1e-5)


@pytest.mark.parametrize("clip_values", [IMAGENET, (np.float32(0.1), np.float32(0.9))])
def test_clip_values_are_float32s_of_what_they_look_like(clip_values: Any) -> None:
    """ART's attacks clip to those, a hair outside; float64 inputs are a hair outside too."""
    low, high = clip_values
    for dtype in (np.float32, np.float64):
        c = classifier(clip_values)
        x = X.astype(dtype) * dtype(high - low) + dtype(low)
        trainer = LabelTrainer(c, "ls", attack=pgd(c, 0.1 * float(high - low)))
        trainer.fit(x.clip(float(low), float(high)), Y, nb_epochs=1)
        assert c.model.high <= float(high) + 1e-5
    with pytest.raises(ValueError, match="clip_values"):
        LabelTrainer(classifier(clip_values)).fit(X * 3 + 0.2, Y, nb_epochs=1)


@pytest.mark.parametrize("clip_values", [None, (0.0, 1.0)])
def test_tensors_and_lists(clip_values: Any) -> None:
    """They are what torch's users have; and the user's own are left as they are."""
    tensors = torch.from_numpy(X.copy()), torch.from_numpy(Y)
    for x, y in (tensors, (X.tolist(), Y.tolist())):
        c = classifier(clip_values)
        trainer = LabelTrainer(c, "vs", augment={"crop_padding": 1})
        trainer.fit(x, y, nb_epochs=1)
        assert c.predict(X).shape == (130, 10)
    assert torch.equal(tensors[0], torch.from_numpy(X))


def test_a_generators_batches_may_end_anywhere() -> None:
    """Its last batch is short, or missing."""
    for size, drop in ((129, True), (130, False), (130, True)):
        c = classifier()
        generator = NumpyDataGenerator(X[:size], SOFT[:size], batch_size=64, drop_remainder=drop)
        trainer = LabelTrainer(c, "ls")
        trainer.fit_generator(generator, nb_epochs=3)
        assert len(trainer.history) == 3


def test_a_generators_batches_of_one_are_left_out() -> None:
    """As ``fit`` leaves them out: batch norm has no variance there."""
    generator = NumpyDataGenerator(X[:129], Y[:129], batch_size=64, drop_remainder=False)
    assert [len(generator.get_batch()[0]) for _ in range(3)] == [64, 64, 1]
    c = classifier()
    LabelTrainer(c, "ls").fit_generator(generator, nb_epochs=3)
    assert c.model.sizes == [64] * 6


def test_a_trainer_that_saw_soft_labels_can_be_copied() -> None:
    """Its result holds the scheme under them, which forwards every name that it lacks."""
    trainer = LabelTrainer(classifier(), "ls")
    trainer.fit(X, SOFT, nb_epochs=1)
    twin = copy.deepcopy(trainer)
    twin.fit(X, SOFT, nb_epochs=1)
    assert twin.get_classifier() is not trainer.get_classifier()
    own = trainer.predict(X)
    assert not np.array_equal(twin.predict(X), own)


def test_what_is_refused() -> None:
    """One line each, where a traceback of ours came before."""
    generator = NumpyDataGenerator(X, SOFT, batch_size=64)
    for call, words in (
        # AdversarialTrainer's order, batch_size third
        (lambda: LabelTrainer(classifier()).fit(X, Y, 32, 1), "must be a pair"),
        (lambda: LabelTrainer(classifier(), accumulate=2).fit_generator(generator), "accumulate"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
