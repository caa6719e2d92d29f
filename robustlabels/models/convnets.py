"""Small convolutional networks, for MNIST and the embedded digits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from robustlabels.models._checks import check_count, check_dropout, check_io
from robustlabels.models.normalize import normalized


def lenet(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """LeNet-5 (LeCun 1998) with ReLUs and max pooling: conv 6, conv 16, then 120-84-K.

    Images of 32 pixels and more are taken as they are, smaller ones padded by 2, as the paper
    pads MNIST to 32x32.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), at least 12x12.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        dropout: before the last layer, in [0, 1).

    Raises:
        ValueError: an impossible value.
    """
    channels, height, width = check_io(num_classes, input_shape, smallest=12)
    padding = 2 if min(height, width) < 32 else 0
    rows, columns = (((s + 2 * padding - 4) // 2 - 4) // 2 for s in (height, width))
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(channels, 6, 5, padding=padding),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * rows * columns, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        dropout=nn.Dropout(check_dropout(dropout)),
        fc3=nn.Linear(84, num_classes),
    )
    return normalized(nn.Sequential(layers), channels, mean, std)


def small_cnn(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    width: int = 32,
    dropout: float = 0.0,
) -> nn.Module:
    """Four 3x3 convolutions with batch norm, two poolings, a global mean: 66,000 weights.

    Made for the embedded digits on a CPU; ours.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), at least 4x4.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        width: channels of the first two convolutions; the others have twice as many.
        dropout: before the last layer, in [0, 1).

    Raises:
        ValueError: an impossible value.
    """
    channels, _, _ = check_io(num_classes, input_shape, smallest=4)
    check_count("width", width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    planes = [channels, width, width, 2 * width, 2 * width]
    for i in range(1, 5):
        layers[f"conv{i}"] = nn.Conv2d(planes[i - 1], planes[i], 3, padding=1, bias=False)
        layers[f"bn{i}"] = nn.BatchNorm2d(planes[i])
        layers[f"relu{i}"] = nn.ReLU(inplace=True)
        if i % 2 == 0:
            layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(check_dropout(dropout))
    layers["fc"] = nn.Linear(2 * width, num_classes)
    return normalized(nn.Sequential(layers), channels, mean, std)
