"""Frozen teachers: a run, a model of RobustBench's zoo, a checkpoint of the student's architecture,
or a model from Python."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

from torch import nn

from robustlabels import runs
from robustlabels.errors import BadValueError
from robustlabels.models import real_classes
from robustlabels.models.zoo import is_zoo_name, zoo_classifier

Teacher = str | Path | nn.Module


def load_teacher(
    teacher: Teacher, num_classes: int, student: Callable[[int], nn.Module]
) -> nn.Module:
    """The teacher, frozen, in eval mode, with K outputs.

    Args:
        teacher: a RUN folder (its best weights), ``robustbench:DATASET/THREAT/NAME``, a checkpoint
            file, or a module.
        num_classes: K.
        student: makes a new model of the student's architecture with that many outputs, for
            checkpoint files.

    Raises:
        RunError: nothing is there, or it is not what it should be.
    """
    if isinstance(teacher, nn.Module):
        model = copy.deepcopy(teacher)
    elif is_zoo_name(teacher):
        model, classes = zoo_classifier(teacher)
        _check_classes(teacher, classes, num_classes)
    elif Path(teacher).is_dir():
        from robustlabels.loading import load_run

        run = load_run(Path(teacher))
        _check_classes(teacher, run.num_classes, num_classes)
        model = run.model
    else:
        path = Path(teacher)
        state = runs.load_weights(path)
        model = student(num_classes)
        runs.load_into(model, state, path)
    return real_classes(model, num_classes).eval().requires_grad_(False)


def _check_classes(teacher: Teacher, classes: int, num_classes: int) -> None:
    if classes != num_classes:
        raise BadValueError(f"teacher {teacher} has {classes} classes; the data has {num_classes}")
