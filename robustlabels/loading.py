"""A finished run, back as a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from robustlabels import runs
from robustlabels.config import Config
from robustlabels.errors import RunError
from robustlabels.factories import make_model, make_scheme

OPAQUE = "python:"
"""Prefix of a config's name for an object that was given from Python."""


@dataclass(frozen=True)
class LoadedRun:
    """What a RUN folder holds.

    Attributes:
        model: with all its outputs (K + V for ``vs``), in eval mode, on the CPU.
        scheme: the label scheme, or None where it was given from Python.
        config: the resolved config.
        num_classes: K, the data set's classes.
        path: of the weights.
        summary: run.json.
    """

    model: nn.Module
    scheme: Any
    config: Config
    num_classes: int
    path: Path
    summary: dict[str, Any]


def load_run(path: str | Path, which: str = "best") -> LoadedRun:
    """The model of a run folder.

    Args:
        path: the RUN folder.
        which: "best" (by validation), "last" or "average" weights.

    Raises:
        RunError: not a run, not finished, or of a model that was given from Python.
    """
    folder = runs.RunFolder.open(Path(path))
    config, summary = folder.config, folder.summary
    if config.model.name.startswith(OPAQUE):
        raise RunError(
            f"{path} was trained on a model given from Python ({config.model.name}): build it and "
            f"load {runs.BEST} yourself"
        )
    weights = folder.weights(which)
    try:
        classes, outputs = int(summary["num_classes"]), int(summary["num_outputs"])
        channels, height, width = (int(n) for n in summary["input_shape"])
        scheme_classes = int(summary["scheme_classes"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path}/{runs.SUMMARY} lacks or spoils the field {error}") from None
    scheme = None
    if not config.labels.name.startswith(OPAQUE):
        scheme = make_scheme(config.labels.name, scheme_classes, **config.labels.params)
    params = config.model.params
    if params.get("pretrained"):
        params = {**params, "pretrained": False}  # the run has its own weights
    model = make_model(config.model.name, outputs, (channels, height, width), **params)
    runs.load_into(model, runs.load_weights(weights), weights)
    return LoadedRun(model.eval(), scheme, config, classes, weights, summary)
