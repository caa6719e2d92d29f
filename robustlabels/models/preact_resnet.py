"""Pre-activation ResNet-18 for small images; torchvision has none.

State-dict keys are those of kuangliu/pytorch-cifar and of the adversarial-training code that grew
from it (Rice 2020, AWP, RobustBench), so that their checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from robustlabels.models._checks import check_activation, check_dropout, check_io
from robustlabels.models.normalize import normalized


class PreActBlock(nn.Module):
    """BN, activation, conv, twice, plus the identity or a 1x1 convolution (He 2016b).

    Args:
        channels: of the input.
        planes: of the output.
        stride: of the first convolution and of the shortcut.
        preact_shortcut: the 1x1 convolution sees the activated input, not the raw one.
        activation: "relu" or "silu".
    """

    def __init__(
        self,
        channels: int,
        planes: int,
        stride: int,
        preact_shortcut: bool = False,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.activation = check_activation(activation)()
        self.preact_shortcut = preact_shortcut
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        self.projects = stride != 1 or channels != planes
        if self.projects:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, planes, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, planes, H / stride, W / stride)."""
        active = self.activation(self.bn1(x))
        residual = self.shortcut(active if self.projects and self.preact_shortcut else x)
        out = self.conv2(self.activation(self.bn2(self.conv1(active))))
        total: Tensor = out + residual
        return total


class PreActResNet18(nn.Module):
    """The network; see :func:`preactresnet18`."""

    def __init__(
        self,
        num_classes: int,
        channels: int = 3,
        final_bn: bool = True,
        preact_shortcut: bool = False,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.layer1 = _stage(64, 64, 1, preact_shortcut, activation)
        self.layer2 = _stage(64, 128, 2, preact_shortcut, activation)
        self.layer3 = _stage(128, 256, 2, preact_shortcut, activation)
        self.layer4 = _stage(256, 512, 2, preact_shortcut, activation)
        self.bn = nn.BatchNorm2d(512) if final_bn else None
        self.activation = check_activation(activation)()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if self.bn is not None:
            out = self.activation(self.bn(out))
        logits: Tensor = self.linear(self.dropout(out.mean(dim=(2, 3))))
        return logits


def _stage(
    channels: int, planes: int, stride: int, preact_shortcut: bool, activation: str
) -> nn.Sequential:
    first = PreActBlock(channels, planes, stride, preact_shortcut, activation)
    return nn.Sequential(first, PreActBlock(planes, planes, 1, preact_shortcut, activation))


def preactresnet18(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    final_bn: bool = True,
    preact_shortcut: bool = False,
    dropout: float = 0.0,
    activation: str = "relu",
) -> nn.Module:
    """PreActResNet-18 with the CIFAR stem (3x3, stride 1), as Rice 2020 and AWP use it.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), any size; made for up to 64x64.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        final_bn: BN and activation before the pooling (Rice, AWP); kuangliu's original has none.
        preact_shortcut: shortcuts see the activated input (kuangliu, He 2016b); Rice, AWP and
            RobustBench give them the raw one. Neither choice changes the state-dict keys.
        dropout: before the last layer, in [0, 1).
        activation: "relu", or "silu" as ADR takes for synthetic images (its appendix F).

    Raises:
        ValueError: an impossible value.
    """
    channels, _, _ = check_io(num_classes, input_shape)
    model = PreActResNet18(
        num_classes, channels, final_bn, preact_shortcut, check_dropout(dropout), activation
    )
    return normalized(model, channels, mean, std)
