"""What leaves the engine: weights, records and states, to whoever keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

Record = dict[str, Any]
Weights = dict[str, Tensor]


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
