"""The code in docs/art.md, run as it stands there."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

art = pytest.importorskip("art")
from art.estimators.classification import PyTorchClassifier  # noqa: E402

TEXT = (Path(__file__).parents[1] / "docs" / "art.md").read_text(encoding="utf-8")


def test_every_block_runs() -> None:
    """Users start from these lines; each needs just a classifier and data."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    for block in blocks:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
        classifier = PyTorchClassifier(
            model,
            nn.CrossEntropyLoss(),
            (1, 8, 8),
            10,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )
        names: dict[str, Any] = {
            "classifier": classifier,
            "x_train": x[:600],
            "y_train": y[:600],
            "x_test": x[600:800],
            "y_test": y[600:800],
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(block, names)
        predicted = classifier.predict(x[600:800])
        assert predicted.shape == (200, 10)
        assert (predicted.argmax(1) == y[600:800]).mean() > 0.5
