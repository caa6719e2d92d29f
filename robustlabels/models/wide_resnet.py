"""Wide ResNets (Zagoruyko 2016); torchvision's ``wide_resnet50_2`` is another family.

State-dict keys are those of TRADES's and RobustBench's code, so that their checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustlabels.models._checks import check_activation, check_dropout, check_io
from robustlabels.models.normalize import normalized


class WideBlock(nn.Module):
    """BN, activation, conv, twice, plus the identity or a 1x1 convolution of what is activated."""

    def __init__(
        self, channels: int, planes: int, stride: int, dropout: float, activation: str
    ) -> None:
        super().__init__()
        self.activation = check_activation(activation)(inplace=True)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.convShortcut = (
            nn.Conv2d(channels, planes, 1, stride, bias=False) if channels != planes else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, planes, H / stride, W / stride)."""
        active = self.activation(self.bn1(x))
        out = self.dropout(self.activation(self.bn2(self.conv1(active))))
        shortcut = x if self.convShortcut is None else self.convShortcut(active)
        total: Tensor = shortcut + self.conv2(out)
        return total


class WideStage(nn.Module):
    """Blocks of one width, under the name ``layer``."""

    def __init__(
        self,
        count: int,
        channels: int,
        planes: int,
        stride: int,
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        blocks = [WideBlock(channels, planes, stride, dropout, activation)]
        blocks += [WideBlock(planes, planes, 1, dropout, activation) for _ in range(count - 1)]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, planes, H / stride, W / stride)."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """WRN-``depth``-``widen``: depth = 6 n + 4, with n blocks in each of three stages.

    Args:
        depth: 28, 34, ...
        widen: factor on the widths 16, 32, 64.
        num_classes: logits.
        channels: of the image.
        dropout: inside each block, between its convolutions.
        activation: "relu" or "silu".
    """

    def __init__(
        self,
        depth: int,
        widen: int,
        num_classes: int,
        channels: int = 3,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        count = (depth - 4) // 6
        w1, w2, w3 = 16 * widen, 32 * widen, 64 * widen
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.block1 = WideStage(count, 16, w1, 1, dropout, activation)
        self.block2 = WideStage(count, w1, w2, 2, dropout, activation)
        self.block3 = WideStage(count, w2, w3, 2, dropout, activation)
        self.bn1 = nn.BatchNorm2d(w3)
        self.activation = check_activation(activation)(inplace=True)
        self.fc = nn.Linear(w3, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = self.activation(self.bn1(out))
        logits: Tensor = self.fc(out.mean(dim=(2, 3)))
        return logits


def wrn_28_10(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """WRN-28-10: 36.5 million weights.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size; made for up to 64x64.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        dropout: between a block's convolutions (Zagoruyko 2016), in [0, 1).
        activation: "relu", or "silu" as ADR takes for synthetic images (its appendix F).

    Raises:
        ValueError: an impossible value.
    """
    channels, _, _ = check_io(num_classes, input_shape)
    model = WideResNet(28, 10, num_classes, channels, check_dropout(dropout), activation)
    return normalized(model, channels, mean, std)


def wrn_34_10(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """WRN-34-10, the architecture of TRADES: 46.2 million weights. See :func:`wrn_28_10`."""
    channels, _, _ = check_io(num_classes, input_shape)
    model = WideResNet(34, 10, num_classes, channels, check_dropout(dropout), activation)
    return normalized(model, channels, mean, std)


def wrn_34_20(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """WRN-34-20, of LTD's tables: 184.5 million weights. See :func:`wrn_28_10`."""
    channels, _, _ = check_io(num_classes, input_shape)
    model = WideResNet(34, 20, num_classes, channels, check_dropout(dropout), activation)
    return normalized(model, channels, mean, std)
