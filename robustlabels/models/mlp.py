"""Fully connected models."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.models._checks import check_dropout, check_io, is_count
from robustlabels.models.normalize import normalized


def linear(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Softmax regression: one linear layer on the pixels.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.

    Raises:
        ValueError: an impossible value.
    """
    shape = check_io(num_classes, input_shape)
    layers = OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(math.prod(shape), num_classes))
    return normalized(nn.Sequential(layers), shape[0], mean, std)


def mlp(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    hidden: Sequence[int] = (500, 256),
    dropout: float = 0.0,
) -> nn.Module:
    """A multilayer perceptron with ReLUs. The default is Goibert's "MNIST Linear", 784-500-256-10.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        hidden: the hidden layers' widths; none makes it ``linear``.
        dropout: before the last layer, in [0, 1).

    Raises:
        ValueError: an impossible value.
    """
    shape = check_io(num_classes, input_shape)
    if not isinstance(hidden, Sequence) or not all(map(is_count, hidden)):
        raise BadValueError(f"hidden must be a list of positive integers, not {hidden!r}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = math.prod(shape)
    for i, units in enumerate(hidden, start=1):
        layers[f"fc{i}"] = nn.Linear(width, units)
        layers[f"relu{i}"] = nn.ReLU()
        width = units
    layers["dropout"] = nn.Dropout(check_dropout(dropout))
    layers["fc"] = nn.Linear(width, num_classes)
    return normalized(nn.Sequential(layers), shape[0], mean, std)
