"""Whether a trainer, a label scheme and options work together: found out by training."""

from __future__ import annotations

import functools
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import RobustLabelsWarning, UserError
from robustlabels.factories import make_dataset, make_trainer
from robustlabels.randomness import preserved, seed_everything
from robustlabels.testing._tiny import EPS, TinyNet
from robustlabels.training import FitResult, fit

CLASSES = 10
OPTIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "awp": {"awp": {"variant": "robustlabels"}},
        "awp, wu": {"awp": {"variant": "wu"}},
        "awp, adr": {"awp": {"variant": "adr"}},
        "extra, own": {"extra_labels": "own"},
        "extra, pseudo": {"extra_labels": "pseudo"},
        "averaging": {"weight_averaging": "auto"},
        "accumulate": {"accumulate": 2},
    }
)
"""What every trainer should take, as options of :func:`compose`."""


@dataclass(frozen=True)
class Composition:
    """What became of a trainer with a scheme and options.

    Attributes:
        refused: the error in one line, where it does not work.
        warned: the warnings.
        exact: whether a run that was killed in the middle of an epoch, and resumed, has the
            weights, averages and figures of the one that was not, to the bit.
        stopped: why training ended early, or None.
        accuracy: on the test part, in [0, 1]; 0 where it does not work.
        weights: the last weights, and averages where there are some.
    """

    refused: str | None = None
    warned: tuple[str, ...] = ()
    exact: bool = False
    stopped: str | None = None
    accuracy: float = 0.0
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    def same(self, other: Composition) -> bool:
        """Whether the weights are those of another one: what differs had no effect."""
        return _equal(self.weights, other.weights)


def compose(
    trainer: str | Mapping[str, Any] | Callable[[], Any],
    scheme: str | Mapping[str, Any] = "one-hot",
    *,
    data: tuple[Tensor, Tensor] | None = None,
    **options: Any,
) -> Composition:
    """Train a tiny network for two epochs, kill the run in the second, and resume it.

    A frozen teacher is there for whoever asks, pseudo-labels included, and so are outliers for
    trainers that take them.

    Args:
        trainer: a registered name, a table with ``name`` and parameters, or a factory.
        scheme: a name or a table.
        data: images (N, C, H, W) of 10 classes and their int64 labels (N,); by default 96 digits.
            Half are trained on, a quarter are the test set, a quarter extra data or outliers.
        **options: of :func:`robustlabels.fit`; with ``extra_labels`` there are extra data.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        preserved(),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", RobustLabelsWarning)
        # Both are offered to everybody.
        warnings.filterwarnings("ignore", "(teacher|attack) .* is not used")
        out, killed = Path(folder) / "whole", Path(folder) / "killed"
        seed_everything(0)
        make = trainer if callable(trainer) else lambda: trainer
        given = _given(make(), data or _digits(), options) | {"scheme": scheme}

        def kill(done: int, total: int, record: Any) -> None:
            if record is None and done == total - 1:
                shutil.copytree(out, killed)  # all that a killed process leaves

        try:
            whole = _fit(given, make(), seed=0, out=out, progress=kill)
        except UserError as error:
            return Composition(refused=str(error), warned=_messages(caught))
        warned = _messages(caught)
        resumed = _fit(given, make(), seed=1, out=killed, resume=True)
    exact = _equal(_weights(whole), _weights(resumed)) and _figures(whole) == _figures(resumed)
    accuracy = whole.test_accuracy or 0.0
    return Composition(None, warned, exact, whole.stopped, accuracy, _weights(whole))


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    ((x, y),) = (
        make_dataset("digits").train_split().batches([torch.arange(96)], torch.device("cpu"))
    )
    return x, y


def _given(trainer: Any, data: tuple[Tensor, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``fit``, but for the scheme; instead of the model, how to make it."""
    half, quarter = len(data[0]) // 2, len(data[0]) // 4
    trained, tested, extra = zip(
        *(part.split([half, quarter, len(part) - half - quarter]) for part in data), strict=True
    )
    net = functools.partial(TinyNet, pixels=data[0][0].numel())
    given: dict[str, Any] = {
        "data": (trained, tested),
        "teacher": net(CLASSES),
        "attack": {"name": "pgd", "steps": 2},
        "num_classes": CLASSES,
        "eps": EPS,
        "epochs": 2,
        "batch_size": 16,
        "validation": 8,
        "validate_every": 2,
        "save_every": 4,  # in the middle of the second epoch, which has 3 steps, or 5 with extra
        "device": "cpu",
    }
    if isinstance(trainer, str | Mapping):
        trainer = make_trainer(**({"name": trainer} if isinstance(trainer, str) else trainer))
    if getattr(trainer, "takes_extra", False):
        given["extra"] = 1 - extra[0]
    if options.get("extra_labels") == "own":
        given["extra"] = extra
    elif options.get("extra_labels") == "pseudo":
        given["extra"] = extra[0]
    outputs = CLASSES + int(getattr(trainer, "extra_outputs", 0))
    given["model"] = functools.partial(net, outputs)
    return {**given, **options}


def _fit(given: Mapping[str, Any], trainer: Any, seed: int, **options: Any) -> FitResult:
    """A run from weights of that seed, which a resumed one must not notice."""
    seed_everything(seed)
    return fit(**{**given, "model": given["model"](), "trainer": trainer, **options})


def _messages(caught: list[warnings.WarningMessage]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(w.message) for w in caught))


def _weights(result: FitResult) -> dict[str, Tensor]:
    average = result.average or {}
    return dict(result.last) | {f"average of {k}": v for k, v in average.items()}


def _figures(result: FitResult) -> list[Any]:
    records = [
        {k: v for k, v in r.items() if k != "seconds"} for r in (*result.history, result.best)
    ]
    return [*records, result.test_accuracy, result.stopped]


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
