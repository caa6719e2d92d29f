"""Tokens-to-Token vision transformers (Yuan 2021); timm has none.

State-dict keys are those of the authors' code. Their published checkpoints scale the attention by
width ** -0.5, where they train, and this module computes, with head width ** -0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustlabels.errors import missing_extra
from robustlabels.models._checks import check_dropout, check_io
from robustlabels.models.normalize import normalized

TOKEN_WIDTH, FEATURES, TOKEN_DROPOUT = 64, 32, 0.1
"""Of the two Performers; the authors' code fixes them."""
SPLITS = ((7, 4, 2), (3, 2, 1), (3, 2, 1))
"""Kernel, stride and padding of the three soft splits: 16 pixels a side to a token."""


class Performer(nn.Module):
    """One-headed attention by positive random features (Choromanski 2021), and an MLP.

    The cost is linear in the number of tokens; ``w`` is drawn once, at the start.

    Args:
        channels: of the incoming tokens.
        width: of the outgoing ones.
        features: random features m; more approximate softmax attention better.
    """

    w: Tensor

    def __init__(self, channels: int, width: int = TOKEN_WIDTH, features: int = FEATURES) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.kqv = nn.Linear(channels, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(TOKEN_DROPOUT)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.Linear(width, width), nn.Dropout(TOKEN_DROPOUT)
        )
        directions = nn.init.orthogonal_(torch.empty(features, width))
        self.register_buffer("w", directions * math.sqrt(features))

    def forward(self, x: Tensor) -> Tensor:
        """(N, tokens, channels) -> (N, tokens, width); the values are the skip connection."""
        k, q, v = self.kqv(self.norm1(x)).chunk(3, dim=-1)
        x = v + self.dropout(self.proj(self.attention(q, k, v)))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """About ``softmax(q @ k.T) @ v``, each (N, tokens, width)."""
        q, k = self._features(q), self._features(k)
        weight = q @ k.sum(dim=1).unsqueeze(-1)
        return q @ (k.transpose(1, 2) @ v) / (weight + 1e-8)

    def _features(self, x: Tensor) -> Tensor:
        """phi with E[phi(q) . phi(k)] = exp(q . k)."""
        exponent = x @ self.w.T - x.square().sum(dim=-1, keepdim=True) / 2
        return exponent.exp() / math.sqrt(len(self.w))


class TokensToToken(nn.Module):
    """Overlapping patches become tokens in three steps, with a :class:`Performer` between them."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        around = [kernel * kernel for kernel, _, _ in SPLITS]
        self.attention1 = Performer(channels * around[0])
        self.attention2 = Performer(TOKEN_WIDTH * around[1])
        self.project = nn.Linear(TOKEN_WIDTH * around[2], width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, tokens, width)."""
        first, second, third = SPLITS
        x = _grid(self.attention1(_soft_split(x, first)), split_sides(x.shape[-2:], first))
        x = _grid(self.attention2(_soft_split(x, second)), split_sides(x.shape[-2:], second))
        tokens: Tensor = self.project(_soft_split(x, third))
        return tokens


def _soft_split(x: Tensor, split: tuple[int, int, int]) -> Tensor:
    """(N, C, H, W) -> (N, tokens, C kernel^2)."""
    kernel, stride, padding = split
    return F.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2)


def _grid(tokens: Tensor, sides: Sequence[int]) -> Tensor:
    """(N, tokens, C) -> (N, C, H, W)."""
    return tokens.transpose(1, 2).reshape(len(tokens), tokens.shape[-1], *sides)


class T2TViT(nn.Module):
    """The network; see :func:`t2t_vit_14`."""

    pos_embed: Tensor

    def __init__(
        self,
        depth: int,
        width: int,
        num_classes: int,
        input_shape: tuple[int, int, int],
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        try:
            from timm.models.vision_transformer import Block
        except ImportError as error:
            raise missing_extra(f"model 't2t-vit-{depth}'", "vision") from error
        channels, *sides = input_shape
        for split in SPLITS:
            sides = split_sides(sides, split)
        self.tokens_to_token = TokensToToken(channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.register_buffer("pos_embed", sinusoids(1 + math.prod(sides), width).unsqueeze(0))
        self.pos_drop = nn.Dropout(dropout)
        blocks = [
            Block(
                width,
                num_heads=width // 64,
                mlp_ratio=3.0,
                proj_drop=dropout,
                drop_path=drop_path * i / (depth - 1),
            )
            for i in range(depth)
        ]
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K)."""
        tokens = self.tokens_to_token(x)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.blocks(self.pos_drop(tokens + self.pos_embed))
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def split_sides(sides: Sequence[int], split: tuple[int, int, int]) -> list[int]:
    """Tokens along each side, of so many pixels or tokens before."""
    kernel, stride, padding = split
    return [(side + 2 * padding - kernel) // stride + 1 for side in sides]


def sinusoids(positions: int, width: int) -> Tensor:
    """Vaswani 2017's position encoding, (positions, width): sine and cosine in turn."""
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def t2t_vit_14(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """T2T-ViT-14: width 384, 6 heads, Performers for tokens; 21.5 million weights.

    Args:
        num_classes: logits, at least 2.
        input_shape: (C, H, W), at least 16x16; made for 224x224, as there is a token for 16x16.
        mean: per channel; with ``std`` puts a :class:`Normalize` layer first.
        std: per channel.
        dropout: of the tokens, and in the blocks, in [0, 1); the Performers always have .1.
        drop_path: chance that the last block is left out in training, in [0, 1), less for those
            before; the paper has .1.

    Raises:
        ValueError: an impossible value.
        ImportError: timm is not installed.
    """
    return _t2t(14, 384, num_classes, input_shape, mean, std, dropout, drop_path)


def t2t_vit_24(
    num_classes: int,
    input_shape: tuple[int, int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """T2T-ViT-24: width 512, 8 heads; 64.1 million weights. See :func:`t2t_vit_14`."""
    return _t2t(24, 512, num_classes, input_shape, mean, std, dropout, drop_path)


def _t2t(
    depth: int,
    width: int,
    num_classes: int,
    input_shape: tuple[int, int, int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    dropout: float,
    drop_path: float,
) -> nn.Module:
    shape = check_io(num_classes, input_shape, smallest=16)
    dropout, drop_path = check_dropout(dropout), check_dropout(drop_path, "drop_path")
    return normalized(
        T2TViT(depth, width, num_classes, shape, dropout, drop_path), shape[0], mean, std
    )
