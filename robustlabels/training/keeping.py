"""What leaves the engine: weights, records and states, to whoever keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from robustlabels.training.validation import Accuracy

Record = dict[str, Any]
Weights = dict[str, Tensor]


_SUFFIXES = {"raw": "", "average": "_average"}


def named_accuracy(found: Accuracy, kind: str) -> Record:
    """Validation accuracies as fields of an epoch's record; ``kind``: "raw" or "average"."""
    fields = {f"validation_accuracy{_SUFFIXES[kind]}": found.clean}
    if found.robust is not None:
        fields[f"validation_robust_accuracy{_SUFFIXES[kind]}"] = found.robust
    return fields


def best_of_each(history: list[Record]) -> dict[str, Record]:
    """For raw and averaged weights, as far as they were validated: the best epoch's figures.

    Returns:
        "raw" and "average" -> epoch, validation_accuracy and, of adversarial training,
        validation_robust_accuracy.
    """
    found: dict[str, Record] = {}
    for kind, suffix in _SUFFIXES.items():
        clean, robust = (f"validation_{what}accuracy{suffix}" for what in ("", "robust_"))
        seen = [r for r in history if clean in r]
        if seen:
            best = max(seen, key=lambda r: (r.get(robust, r[clean]), r[clean]))
            named = {"validation_accuracy": clean, "validation_robust_accuracy": robust}
            found[kind] = {"epoch": best["epoch"]} | {
                name: best[field] for name, field in named.items() if field in best
            }
    return found


class Keeper:
    """What the engine hands out as it goes; this one keeps nothing."""

    def on_step(self, done: int, total: int) -> None:
        """After each optimizer step."""

    def on_best(self, weights: Weights, record: Record) -> None:
        """New best weights (raw or averaged), live ones, and their epoch's record."""

    def on_epoch(self, history: list[Record], done: int, total: int) -> None:
        """After each epoch: every epoch's record so far; ``on_state`` follows."""

    def on_state(self, state: dict[str, Any]) -> None:
        """Everything that resuming needs, live tensors."""


@dataclass
class Outcome:
    """How training ended.

    Attributes:
        history: a record for each epoch.
        best: the record of the best epoch.
        stopped: why it ended early, or None.
    """

    history: list[Record]
    best: Record | None
    stopped: str | None = None
