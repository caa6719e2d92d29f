"""Accuracy under common corruptions, as RobustBench judges it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.data.corruptions import CORRUPTIONS, SEVERITIES, Corrupted
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import correct, predict
from robustlabels.evaluation.context import Context


class Corruptions:
    """Mean accuracy over corruptions and severities (Hendrycks & Dietterich 2019).

    The images come from ``root``, not from the data set that is evaluated: they are that test
    set's own, corrupted. Batches are read one by one.

    Args:
        root: CIFAR-10-C's, CIFAR-100-C's or ImageNet-C's folder; see
            :class:`robustlabels.data.corruptions.Corrupted`.
        corruptions: names; the fifteen of RobustBench by default.
        severities: from 1 to 5.
        n: the first n images of each, as RobustBench takes them; all by default.
    """

    def __init__(
        self,
        root: str | Path,
        corruptions: Sequence[str] = CORRUPTIONS,
        severities: Sequence[int] = SEVERITIES,
        n: int | None = None,
    ) -> None:
        if isinstance(corruptions, str) or not corruptions:
            raise BadValueError(f"corruptions must be a list of names, not {corruptions!r}")
        if not severities or not set(severities) <= set(SEVERITIES):
            raise BadValueError(f"severities must be from 1 to 5, not {list(severities)!r}")
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise BadValueError(f"n must be at least 1, not {n!r}")
        self.images = Corrupted(root)
        self.corruptions, self.severities, self.n = list(corruptions), list(severities), n

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> dict[str, Any]:
        """``accuracy``, the mean; ``per_corruption`` and ``per_severity``; and ``n``, of each."""
        table: dict[tuple[str, int], float] = {}
        count = 0
        total = len(self.corruptions) * len(self.severities)
        for corruption in self.corruptions:
            for severity in self.severities:
                table[corruption, severity], count = self._accuracy(
                    model, corruption, severity, context
                )
                if context.progress is not None:
                    context.progress(len(table) / total, f"{corruption} {severity}")
        return {
            "accuracy": _mean(list(table.values())),
            "per_corruption": {
                c: _mean([table[c, s] for s in self.severities]) for c in self.corruptions
            },
            "per_severity": {
                str(s): _mean([table[c, s] for c in self.corruptions]) for s in self.severities
            },
            "n": count,
        }

    def _accuracy(
        self, model: nn.Module, corruption: str, severity: int, context: Context
    ) -> tuple[float, int]:
        split = self.images.images(corruption, severity, context.num_classes, context.classes)
        rows = torch.arange(len(split))[: self.n]
        hits = 0
        for x, y in split.batches(rows.split(context.batch_size), torch.device("cpu")):
            hits += int(correct(predict(model, x, context.batch_size), y).sum())
        return hits / len(rows), len(rows)


def _mean(shares: list[float]) -> float:
    return math.fsum(shares) / len(shares)
