"""Frozen teachers: a run, a model of RobustBench's zoo, a checkpoint, or a model from Python."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from robustlabels import runs
from robustlabels.errors import BadValueError, RobustLabelsWarning, RunError
from robustlabels.models import real_classes
from robustlabels.models.zoo import is_zoo_name, zoo_classifier

Teacher = str | Path | nn.Module


def load_teacher(
    teacher: Teacher, num_classes: int, new_model: Callable[[int], nn.Module]
) -> nn.Module:
    """The teacher, frozen, in eval mode, with K outputs.

    Args:
        teacher: a RUN folder (its best weights), ``robustbench:DATASET/THREAT/NAME``, a checkpoint
            file, or a module. Each may have virtual classes; ``model`` of what is returned has
            all its outputs.
        num_classes: K.
        new_model: makes a model with that many outputs, for checkpoint files.

    Raises:
        RunError: nothing is there, or it is not what it should be.
    """
    if isinstance(teacher, nn.Module):
        model = copy.deepcopy(teacher)
    elif is_zoo_name(teacher):
        model, classes = zoo_classifier(teacher)
        check_classes(f"teacher {teacher}", classes, num_classes)
    elif Path(teacher).is_dir():
        from robustlabels.loading import load_run

        run = load_run(Path(teacher))
        check_classes(f"teacher {teacher}", run.num_classes, num_classes)
        model = run.model
    else:
        path = Path(teacher)
        state = runs.load_weights(path)
        model = new_model(num_classes)
        state = runs.matched(state, model.state_dict())
        outputs = head_outputs(state, model.state_dict(), num_classes) or num_classes
        if outputs != num_classes:
            model = new_model(outputs)
        try:
            runs.load_into(model, state, path)
        except RunError as error:
            raise RunError(f"{error}; teacher_model names a teacher's architecture") from None
        if outputs != num_classes:
            warnings.warn(
                f"teacher {path} has {outputs} outputs; the first {num_classes} are taken for the "
                "data's classes, the others for virtual ones",
                RobustLabelsWarning,
                stacklevel=2,
            )
    return real_classes(model, num_classes).eval().requires_grad_(False)


def head_outputs(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], num_classes: int
) -> int | None:
    """The outputs of a checkpoint that differs from a model in its head's rows alone, else None.

    Args:
        state: the checkpoint.
        own: the model's state, of K or more outputs.
        num_classes: K; neither has fewer.
    """
    wrong = [(state[k], own[k]) for k in own if k in state and state[k].shape != own[k].shape]
    if any(not a.dim() or a.shape[1:] != b.shape[1:] for a, b in wrong):
        return None
    rows = {(len(a), len(b)) for a, b in wrong}
    if len(rows) != 1:
        return None
    theirs, ours = rows.pop()
    return theirs if min(theirs, ours) >= num_classes else None


@dataclass
class Teachers:
    """The frozen teachers of a run, each loaded when it is asked for.

    Attributes:
        load: from a name or module to the teacher, ready to use.
        named: the run's teacher, or None.
        labeller: who makes pseudo-labels of extra data, if it is another, or None.
        asked: whether anyone has asked for the run's teacher.
    """

    load: Callable[[Teacher], nn.Module]
    named: Teacher | None
    labeller: Teacher | None
    asked: bool = False

    def get(self, who: str) -> nn.Module:
        """The run's teacher; a ValueError that says who needs one where there is none."""
        if self.named is None:
            raise BadValueError(
                f"{who} needs a teacher: a run, a checkpoint or a model "
                "(--teacher, or fit(teacher=...))"
            )
        self.asked = True
        return self.load(self.named)

    def get_labeller(self) -> nn.Module:
        """The teacher of pseudo-labels."""
        if self.labeller is None:
            return self.get("extra_labels='pseudo' without extra_teacher")
        return self.load(self.labeller)


def check_classes(what: str, classes: int, num_classes: int) -> None:
    """A ValueError unless a model has the data's classes."""
    if classes != num_classes:
        raise BadValueError(f"{what} has {classes} classes; the data has {num_classes}")
