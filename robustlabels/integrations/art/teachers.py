"""Teachers inside an ART trainer: a frozen one, and the average of the classifier itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.numbered import Array
from robustlabels.training.averaging import ExponentialAverage
from robustlabels.training.teachers import load_teacher


class Teacher(Protocol):
    """What gives the logits that a scheme makes its labels from."""

    def begin(self) -> None:
        """A ``fit`` begins."""

    def logits(self, x: Array) -> Tensor:
        """Inputs (N, ...) as ART has them -> (N, D), on the device."""

    def follow(self) -> None:
        """The optimizer has stepped."""


class FrozenTeacher:
    """A teacher that stays as it is.

    Args:
        model: in eval mode, on the device.
        device: of the inputs.
        classifier: the ART classifier whose preprocessing comes before it; None for inputs as
            ``fit`` gets them.
    """

    def __init__(self, model: nn.Module, device: torch.device, classifier: Any = None) -> None:
        self._model, self._device, self._classifier = model, device, classifier

    def begin(self) -> None:
        """Nothing."""

    def logits(self, x: Array) -> Tensor:
        """See :class:`Teacher`."""
        return _logits(self._model, x, self._device, self._classifier)

    def follow(self) -> None:
        """Nothing."""


class AverageTeacher:
    """The exponential average of a classifier's weights, from those of its first ``fit`` on.

    Args:
        classifier: of ART.
        decay: of the average.
    """

    def __init__(self, classifier: Any, decay: float) -> None:
        self._classifier, self._decay = classifier, decay
        self.average: ExponentialAverage | None = None

    def begin(self) -> None:
        """Start the average; weights may have been loaded since the trainer was made."""
        if self.average is None:
            self.average = _average_of(self._classifier, self._decay)

    def logits(self, x: Array) -> Tensor:
        """See :class:`Teacher`."""
        assert self.average is not None  # begin() has made it
        classifier = self._classifier
        return _logits(self.average.model, x, classifier.device, classifier)

    def follow(self) -> None:
        """One step of the average."""
        assert self.average is not None
        self.average.update()


def make_teacher(given: Any, scheme: Any, classifier: Any) -> Teacher | None:
    """The teacher that a scheme needs.

    Args:
        given: a RUN folder, an ``nn.Module`` or a ``PyTorchClassifier``, where it is a frozen one.
        scheme: a complete label scheme.
        classifier: of ART, the student.

    Raises:
        ValueError: a frozen teacher is missing, or given to a scheme without one.
    """
    if scheme.teacher != "frozen":
        if given is not None:
            raise BadValueError(f"{type(scheme).__name__} has no frozen teacher: leave teacher out")
        if scheme.teacher is None:
            return None
        return AverageTeacher(classifier, float(scheme.ema_decay))
    if given is None:
        raise BadValueError(
            f"{type(scheme).__name__} needs a teacher: a run, an nn.Module or a PyTorchClassifier"
        )
    own = given if hasattr(given, "_apply_preprocessing") else None
    module = given if own is None else own.model
    if not isinstance(module, nn.Module) and not Path(str(module)).is_dir():
        raise BadValueError(f"no run at {module}: give a RUN folder, or a model as an object")
    device = classifier.device
    return FrozenTeacher(
        load_teacher(module, scheme.num_classes, _no_student).to(device), device, own
    )


@torch.no_grad()
def _logits(model: nn.Module, x: Array, device: torch.device, classifier: Any) -> Tensor:
    if classifier is not None:
        x, _ = classifier._apply_preprocessing(x, y=None, fit=False)
    logits: Tensor = model(torch.as_tensor(x, device=device))
    return logits.float()


def _average_of(classifier: Any, decay: float) -> ExponentialAverage:
    model = classifier.model
    if not hasattr(model, "ops"):
        return ExponentialAverage(model, decay)
    # ART's interval model makes one of its layers at the first forward in attack mode, and holds
    # dense copies of its weights, with a graph, which can't be copied.
    mode = model.forward_mode
    model.set_forward_mode("attack")
    with torch.no_grad():
        model(torch.zeros(1, *classifier.input_shape, device=classifier.device))
    for op in model.ops:
        if hasattr(op, "dense_weights"):
            op.dense_weights = op.dense_weights.detach()
            op.bias = None if op.bias is None else op.bias.detach()
    average = ExponentialAverage(model, decay)
    model.re_convert()
    model.set_forward_mode(mode)
    return average


def _no_student(outputs: int) -> nn.Module:
    raise BadValueError(
        f"a checkpoint alone names no model of {outputs} outputs: give a RUN folder"
    )
