"""ART's trainers and LabelTrainer: soft labels, and batches of one sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("art")

from art.defences.trainer import AdversarialTrainerFBFPyTorch
from art.estimators.classification import PyTorchClassifier

from robustlabels.integrations.art import LabelTrainer, with_labels
from robustlabels.integrations.art.soft_targets import with_soft_targets
from robustlabels.labels import (
    LabelSmoothing,
    LowTemperatureDistillation,
    SecondBestLabelSmoothing,
    VirtualSmoothing,
)

K = 5


def classifier() -> PyTorchClassifier:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, K))
    return PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=(1, 4, 4),
        nb_classes=K,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def soft_rows(n: int) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(K), n).astype(np.float32)


@pytest.mark.parametrize(
    "scheme",
    [
        LabelSmoothing(K, 0.2),
        VirtualSmoothing(K),
        SecondBestLabelSmoothing(K, 0.2),
        LowTemperatureDistillation(K),
    ],
    ids=lambda s: type(s).__name__,
)
def test_soft_labels_are_the_mixture_of_labels(scheme: Any) -> None:
    """Every class's label, weighted by its share, worked out class by class."""
    rows = soft_rows(6)
    rows[0] = np.eye(K)[2]
    y = torch.from_numpy(rows.argmax(1))
    g = torch.Generator().manual_seed(0)
    given = {
        "logits": torch.randn(6, scheme.num_outputs, generator=g),
        "teacher_logits": torch.randn(6, K, generator=g),
    }
    mixed = with_soft_targets(scheme, rows).labels(y, **given, index=torch.arange(6))
    expected = sum(
        torch.from_numpy(rows[:, k : k + 1]) * scheme.labels(torch.full((6,), k), **given)
        for k in range(K)
    )
    torch.testing.assert_close(mixed, expected)


class Counting(LabelSmoothing):
    """Counts calls of labels()."""

    calls = 0

    def labels(self, y: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Count, then return the labels."""
        self.calls += 1
        return super().labels(y, *args, **kwargs)


def test_soft_labels_ask_a_linear_scheme_once_per_step() -> None:
    """K calls per step took 4.9 GB for K = 2000."""
    x = np.random.default_rng(1).random((8, 1, 4, 4), dtype=np.float32)
    scheme = Counting(K)
    LabelTrainer(classifier(), scheme, "standard", seed=0).fit(
        x, soft_rows(8), batch_size=4, nb_epochs=1
    )
    assert scheme.calls <= 4  # two steps


def test_fbf_takes_a_last_batch_of_one_sample() -> None:
    """Plain ART accepts five samples in batches of four."""
    x = np.random.default_rng(1).random((5, 1, 4, 4), dtype=np.float32)
    y = np.eye(K, dtype=np.float32)[np.arange(5)]
    made = classifier()
    trainer = with_labels(AdversarialTrainerFBFPyTorch(made, eps=0.1), "ls")
    trainer.fit(x, y, batch_size=4, nb_epochs=2)
    assert np.isfinite(made.predict(x)).all()
    assert all(p.isfinite().all() for p in made.model.parameters())
