"""What label schemes are asked, and how: as the engine asks them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from robustlabels.labels import Mix, complete

EPOCHS = 4
KEYWORDS = {"logits": "logits", "teacher": "teacher_logits", "mix": "mix", "index": "index"}


@dataclass(frozen=True)
class SchemeCase:
    """A scheme with one number of classes, and what is expected of it."""

    factory: Callable[[], Any]
    num_classes: int
    deterministic: bool
    independent: bool
    non_negative: bool

    def make(self) -> Any:
        """A new scheme, as the engine starts with it."""
        scheme = complete(self.factory(), "it")
        if hasattr(scheme, "begin_training"):
            scheme.begin_training(EPOCHS)
        return scheme


@dataclass(frozen=True)
class Batch:
    """What a scheme may be given, beside ``y``."""

    y: Tensor
    logits: Tensor
    teacher: Tensor
    mix: Mix | None
    index: Tensor

    @classmethod
    def draw(cls, scheme: Any, n: int = 6, seed: int = 0, scale: float = 3.0) -> Batch:
        """Random logits, rounded so that some are equal; the mix is the scheme's own."""
        g = torch.Generator().manual_seed(seed)
        k, width = scheme.num_classes, scheme.num_outputs
        # The engine's frozen teachers have K outputs; an average of the student has them all.
        told = width if scheme.teacher == "ema" else k
        y = torch.randint(k, (n,), generator=g)
        logits = (torch.randn(n, width, generator=g) * 2).round() / 2 * scale
        teacher = torch.randn(n, told, generator=g) * scale
        x = torch.rand(n, 1, 4, 4, generator=g)
        return cls(y, logits, teacher, scheme.perturb(x, y, g)[1], torch.randperm(n, generator=g))

    def given(self, scheme: Any) -> dict[str, Any]:
        """What the scheme declares, and None for what else every scheme is given."""
        declared = {KEYWORDS[need]: getattr(self, need) for need in sorted(scheme.needs)}
        return {"logits": None, "teacher_logits": None, **declared}

    def rows(self, rows: Tensor) -> Batch:
        """Some samples of it."""
        mix = self.mix
        if mix is not None:
            labels = None if mix.labels is None else mix.labels[rows]
            mix = Mix(mix.lam[rows], mix.partner[rows], labels)
        return Batch(self.y[rows], self.logits[rows], self.teacher[rows], mix, self.index[rows])

    def cast(self, dtype: torch.dtype) -> Batch:
        """With logits of another dtype."""
        return replace(self, logits=self.logits.to(dtype), teacher=self.teacher.to(dtype))


def ask(
    scheme: Any,
    batch: Batch,
    progress: float = 0.5,
    changed: Mapping[str, Tensor | None] = MappingProxyType({}),
) -> Tensor:
    """The scheme's labels, given what it declares."""
    given = {**batch.given(scheme), **changed}
    labels: Tensor = scheme.labels(batch.y, progress=progress, **given)
    return labels
