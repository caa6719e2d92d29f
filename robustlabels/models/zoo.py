"""RobustBench's model zoo, by name: ``robustbench:cifar10/Linf/Chen2021LTD_WRN34_10``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TypeGuard

from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.models._checks import check_count
from robustlabels.models.heads import adapt_model

MODEL_DIR = "models"
"""RobustBench's own default, below the working folder."""
ZOO = "robustbench:"
"""Prefix of the zoo's names."""


def is_zoo_name(model: object) -> TypeGuard[str]:
    """Whether this names a model of the zoo."""
    return isinstance(model, str) and model.startswith(ZOO)


def zoo_classifier(name: str) -> tuple[nn.Module, int]:
    """A model of the zoo by its full name, with its weights and its own K outputs; and K."""
    from robustlabels._compat.robustbench_zoo import ZooModel

    entry = ZooModel.by_name(name.removeprefix(ZOO))
    return entry.load(Path(MODEL_DIR)), entry.classes


def zoo_model(
    name: str,
    num_classes: int | None = None,
    input_shape: tuple[int, int, int] | None = None,
    *,
    model_dir: str = MODEL_DIR,
    pretrained: bool = True,
) -> nn.Module:
    """A model of RobustBench's zoo, with its weights, in eval mode.

    Its own normalisation is inside. RobustBench is imported, and a missing checkpoint is fetched
    and checked; see :func:`robustlabels.evaluation.robustbench.load_model`.

    Args:
        name: DATASET/THREAT/NAME, the last as RobustBench has it.
        num_classes: logits; the model's own K by default. Where there are more, as for virtual
            classes, the last linear layer is widened and keeps its K rows.
        input_shape: must have 3 channels.
        model_dir: RobustBench's folder of models, with DATASET/THREAT/NAME.pt.
        pretrained: with the zoo's weights; else with random ones, and nothing is fetched.

    Raises:
        ValueError: fewer logits than the model's K, other channels, or no linear layer to widen.
        KeyError: no such model; the message has the nearest matches.
        RuntimeError: a checkpoint can't be had, is not what it was, could run code or doesn't fit.
        ImportError: RobustBench is missing or broken; the message says what to do.
    """
    from robustlabels._compat.robustbench_zoo import ZooModel

    if input_shape is not None and input_shape[0] != 3:
        raise BadValueError(f"{ZOO}{name} takes images of 3 channels, not {input_shape[0]}")
    entry = ZooModel.by_name(name)
    outputs = entry.classes if num_classes is None else check_count("num_classes", num_classes, 2)
    if outputs < entry.classes:
        raise BadValueError(f"{ZOO}{name} has {entry.classes} classes; it can't give {outputs}")
    model = entry.load(Path(model_dir)) if pretrained else entry.architecture()
    if outputs > entry.classes:
        model = adapt_model(model, SimpleNamespace(num_classes=entry.classes, num_outputs=outputs))
    return model
