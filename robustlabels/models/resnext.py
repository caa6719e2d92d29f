"""ResNeXt-29 for small images (Xie 2017, section 5.2); torchvision has ImageNet's only.

State-dict keys are those of RobustBench's ``CifarResNeXt``, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustlabels.models._checks import check_activation, check_count, check_dropout, check_io
from robustlabels.models.normalize import normalized


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions with BN, plus the identity or a 1x1 with BN.

    Args:
        channels: of the input.
        width: of the grouped convolution, all groups together.
        planes: of the output.
        cardinality: groups.
        stride: of the grouped convolution and of the shortcut.
        activation: "relu" or "silu".
    """

    def __init__(
        self,
        channels: int,
        width: int,
        planes: int,
        cardinality: int,
        stride: int,
        activation: str,
    ) -> None:
        super().__init__()
        self.activation = check_activation(activation)(inplace=True)
        self.conv_reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(width)
        self.conv_conv = nn.Conv2d(
            width, width, 3, stride, padding=1, groups=cardinality, bias=False
        )
        self.bn = nn.BatchNorm2d(width)
        self.conv_expand = nn.Conv2d(width, planes, 1, bias=False)
        self.bn_expand = nn.BatchNorm2d(planes)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels != planes:
            projection = nn.Conv2d(channels, planes, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, planes, H / stride, W / stride)."""
        out = self.activation(self.bn_reduce(self.conv_reduce(x)))
        out = self.activation(self.bn(self.conv_conv(out)))
        out = self.bn_expand(self.conv_expand(out)) + self.downsample(x)
        total: Tensor = self.activation(out)
        return total


class ResNeXt29(nn.Module):
    """The network; see :func:`resnext29`."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        cardinality: int = 2,
        base_width: int = 64,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.activation = check_activation(activation)(inplace=True)
        self.conv_1_3x3 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        width = cardinality * base_width
        self.stage_1 = _stage(64, width, 256, cardinality, 1, activation)
        self.stage_2 = _stage(256, 2 * width, 512, cardinality, 2, activation)
        self.stage_3 = _stage(512, 4 * width, 1024, cardinality, 2, activation)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        out = self.activation(self.bn_1(self.conv_1_3x3(x)))
        out = self.stage_3(self.stage_2(self.stage_1(out)))
        logits: Tensor = self.classifier(self.dropout(out.mean(dim=(2, 3))))
        return logits


def _stage(
    channels: int, width: int, planes: int, cardinality: int, stride: int, activation: str
) -> nn.Sequential:
    first = ResNeXtBlock(channels, width, planes, cardinality, stride, activation)
    others = (ResNeXtBlock(planes, width, planes, cardinality, 1, activation) for _ in range(2))
    return nn.Sequential(first, *others)


def resnext29(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    cardinality: int = 2,
    base_width: int = 64,
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """ResNeXt-29 (2x64d), as VS trains it: 9.1 million weights.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size; made for up to 64x64.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        cardinality: groups C; Xie 2017 has 8 and 16, AugMix 4.
        base_width: channels d of a group in the first stage; AugMix has 32.
        dropout: before the last layer, in [0, 1).
        activation: "relu" or "silu".

    Raises:
        ValueError: an impossible value.
    """
    channels, _, _ = check_io(num_classes, input_shape)
    check_count("cardinality", cardinality)
    check_count("base_width", base_width)
    model = ResNeXt29(
        num_classes, channels, cardinality, base_width, check_dropout(dropout), activation
    )
    return normalized(model, channels, mean, std)
