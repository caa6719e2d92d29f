"""The embedded data set: scikit-learn's digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from robustlabels.data.checks import channel_stats
from robustlabels.data.splits import DataSet, TensorSplit


def digits(root: str | Path | None = None) -> DataSet:
    """8x8 digits (Alpaydin 1998, in scikit-learn): 1437 for training, 360 for testing.

    The split is stratified and always the same: the samples, shuffled with seed 0, are sorted by
    class, and every fifth is a test sample.

    Args:
        root: ignored; the data come with scikit-learn.
    """
    del root
    from sklearn.datasets import load_digits

    bunch = load_digits()
    shuffled = np.random.RandomState(0).permutation(len(bunch.target))  # a frozen stream
    order = shuffled[np.argsort(bunch.target[shuffled], kind="stable")]
    test = np.zeros(len(order), dtype=bool)
    test[::5] = True
    x = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    y = torch.from_numpy(bunch.target).long()
    train_index, test_index = torch.from_numpy(order[~test]), torch.from_numpy(order[test])
    mean, std = channel_stats(x[train_index])
    return DataSet(
        name="digits",
        train=TensorSplit(x[train_index], y[train_index]),
        test=TensorSplit(x[test_index], y[test_index]),
        num_classes=10,
        input_shape=(1, 8, 8),
        mean=mean,
        std=std,
        classes=tuple("0123456789"),
    )
