"""timm's tiny vision transformer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from robustlabels.errors import BadValueError, missing_extra
from robustlabels.models._checks import check_count, check_dropout, check_io
from robustlabels.models.normalize import normalized


def vit_tiny(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    patch_size: int | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """ViT-Ti (Touvron 2021): width 192, depth 12, 3 heads; timm's ``VisionTransformer``.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), both sides multiples of ``patch_size``.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        patch_size: pixels a side; by default 2 for images up to 8 px, 4 up to 64, else 16.
        dropout: before the last layer, in [0, 1).

    Raises:
        ValueError: an impossible value.
        ImportError: timm is not installed.
    """
    channels, height, width = check_io(num_classes, input_shape)
    if patch_size is None:
        side = max(height, width)
        patch_size = 2 if side <= 8 else 4 if side <= 64 else 16
    check_count("patch_size", patch_size)
    if height % patch_size or width % patch_size:
        raise BadValueError(
            f"patch_size must divide the image, {height}x{width} pixels, and {patch_size} does not"
        )
    check_dropout(dropout)
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise missing_extra("model 'vit-tiny'", "vision") from error
    model = VisionTransformer(
        img_size=(height, width),
        patch_size=patch_size,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=192,
        depth=12,
        num_heads=3,
        drop_rate=dropout,
    )
    return normalized(model, channels, mean, std)
