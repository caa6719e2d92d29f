"""The result of ``fit``, and its progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robustlabels.config import Config
from robustlabels.display import html_table, progress_bar, text_table
from robustlabels.training.keeping import Record, Weights

Progress = Callable[[int, int, Record | None], None]


@dataclass(frozen=True)
class FitResult:
    """What training gave.

    Attributes:
        model: the trained model with the best weights, in eval mode, all its outputs; the
            deployed classifier is ``robustlabels.real_classes(model, scheme)``.
        scheme: the label scheme.
        num_classes: K, the data set's classes.
        config: resolved and complete.
        history: a record for each epoch.
        best: the best epoch's record, with the validation accuracies of the raw weights and, as
            ``..._average``, of the averaged ones; "weights" is "raw" or "average".
        last: the last epoch's raw weights.
        average: the last averaged weights, with ``weight_averaging``.
        test_accuracy: clean accuracy of the best weights on the test set, or None without one;
            reported, never used to choose.
        stopped: why training ended early, or None.
        out: the RUN folder, or None.
    """

    model: nn.Module
    scheme: Any
    num_classes: int
    config: Config
    history: list[Record]
    best: Record
    last: Weights
    average: Weights | None
    test_accuracy: float | None
    stopped: str | None
    out: Path | None

    def __repr__(self) -> str:
        """Return what was trained, and how well, on a few lines."""
        return text_table("FitResult", self._rows())

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        return html_table("FitResult", self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        config, best = self.config, self.best
        names = f"{config.labels.name} labels, trainer {config.trainer.name}"
        validated = [
            f"{what} {best[field]:.1%}"
            for what, field in (
                ("clean", "validation_accuracy"),
                ("robust", "validation_robust_accuracy"),
            )
            if field in best
        ]
        rows = [
            ("model", f"{config.model.name.removeprefix('python:')}, {self.num_classes} classes"),
            ("training", f"{names}, {len(self.history)} of {config.epochs} epochs"),
            ("best", f"epoch {best['epoch']}, {best['weights']} weights"),
            ("validation accuracy", ", ".join(validated) or "not measured"),
        ]
        if self.test_accuracy is not None:
            rows.append(("test accuracy", f"{self.test_accuracy:.1%}"))
        if self.stopped is not None:
            rows.append(("stopped", self.stopped))
        if self.out is not None:
            rows.append(("run directory", str(self.out)))
        return rows


@contextmanager
def reported(progress: Progress | bool | None) -> Iterator[Progress | None]:
    """Yield the callback for a ``progress`` argument; True shows a progress bar."""
    if progress is not True:
        yield progress or None
        return
    with progress_bar("training") as update:
        note = ""

        def report(done: int, total: int, record: Record | None) -> None:
            nonlocal note
            if record is not None:
                note = f"epoch {record['epoch']}: loss {record['train_loss']:.3f}"
                if "validation_accuracy" in record:
                    note += f", clean {record['validation_accuracy']:.1%}"
                if "validation_robust_accuracy" in record:
                    note += f", robust {record['validation_robust_accuracy']:.1%}"
            update(done / total, note)

        yield report
