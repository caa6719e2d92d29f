"""torchvision's architectures, fitted to small images and to any number of channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from torch import nn

from robustlabels.errors import missing_extra
from robustlabels.models._checks import check_dropout, check_io
from robustlabels.models.normalize import normalized

SMALL = 64
"""Images of up to so many pixels a side get the small-image variant."""


def resnet18(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's ResNet-18; up to 64 px with the CIFAR stem (3x3, stride 1, no max pooling).

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        dropout: before the last layer, in [0, 1).

    Raises:
        ValueError: an impossible value.
        ImportError: torchvision is not installed.
    """
    return _resnet("resnet18", "resnet18", num_classes, input_shape, mean, std, dropout)


def resnet50(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's ResNet-50: 25.6 million weights with 1,000 classes. See :func:`resnet18`."""
    return _resnet("resnet50", "resnet50", num_classes, input_shape, mean, std, dropout)


def resnext50(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's ResNeXt-50 (32x4d): 25.0 million weights. See :func:`resnet18`."""
    return _resnet("resnext50", "resnext50_32x4d", num_classes, input_shape, mean, std, dropout)


def wrn_50_2(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's Wide ResNet-50-2: 68.9 million weights. See :func:`resnet18`."""
    return _resnet("wrn-50-2", "wide_resnet50_2", num_classes, input_shape, mean, std, dropout)


def _resnet(
    name: str,
    constructor: str,
    num_classes: int,
    input_shape: tuple[int, int, int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dropout: float,
) -> nn.Module:
    channels, height, width = check_io(num_classes, input_shape)
    check_dropout(dropout)
    model = getattr(_torchvision(name), constructor)(weights=None, num_classes=num_classes)
    if max(height, width) <= SMALL:
        model.conv1 = _stem(channels, 64, kernel=3, stride=1)
        model.maxpool = nn.Identity()
    elif channels != 3:
        model.conv1 = _stem(channels, 64, kernel=7, stride=2)
    if dropout:
        model.avgpool = nn.Sequential(model.avgpool, nn.Dropout(dropout))  # keeps the keys
    return normalized(model, channels, mean, std)


def vgg16(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's VGG-16 with batch norm, with one linear layer 512-K for a head.

    The ImageNet head (two layers of 4096) has 8 times the convolutions' weights and is not used
    on small images (kuangliu/pytorch-cifar).

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), at least 32x32: five poolings halve it.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        dropout: before the last layer, in [0, 1).

    Raises:
        ValueError: an impossible value.
        ImportError: torchvision is not installed.
    """
    channels, _, _ = check_io(num_classes, input_shape, smallest=32)
    check_dropout(dropout)
    vgg = _torchvision("vgg16").vgg
    features = vgg.make_layers(vgg.cfgs["D"], batch_norm=True)
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    for module in features:
        if isinstance(module, nn.Conv2d):  # as torchvision's VGG does
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    layers = OrderedDict[str, nn.Module](
        features=features,
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(dropout),
        classifier=nn.Linear(512, num_classes),
    )
    return normalized(nn.Sequential(layers), channels, mean, std)


def mobilenet_v2(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """torchvision's MobileNet-V2; up to 64 px with stride 1 in the stem and the second stage.

    The small-image variant is kuangliu/pytorch-cifar's: an image of 32 px leaves 4x4 features.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        dropout: before the last layer, in [0, 1); torchvision's own default is .2.

    Raises:
        ValueError: an impossible value.
        ImportError: torchvision is not installed.
    """
    channels, height, width = check_io(num_classes, input_shape)
    small = max(height, width) <= SMALL
    stages = [  # expansion, channels, blocks, first stride
        [1, 16, 1, 1],
        [6, 24, 2, 1 if small else 2],
        [6, 32, 3, 2],
        [6, 64, 4, 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model = _torchvision("mobilenet-v2").mobilenet_v2(
        weights=None,
        num_classes=num_classes,
        inverted_residual_setting=stages,
        dropout=check_dropout(dropout),
    )
    if small or channels != 3:
        model.features[0][0] = _stem(channels, 32, kernel=3, stride=1 if small else 2)
    return normalized(model, channels, mean, std)


def _stem(channels: int, planes: int, kernel: int, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, planes, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _torchvision(name: str) -> Any:
    try:
        import torchvision.models
    except ImportError as error:
        raise missing_extra(f"model {name!r}", "vision") from error
    return torchvision.models
