"""ART's PyTorch classifiers with a scheme in their loss, and with virtual classes.

An object is given a subclass of its own class; ART's files and classes are left alone.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.labelling import Labelling, SchemeLoss
from robustlabels.integrations.art.numbered import Array, decode
from robustlabels.labels import soft_cross_entropy
from robustlabels.models import adapt_model
from robustlabels.training.averaging import ExponentialAverage


class _Plain:
    """See :func:`become`."""


class _Abstract(abc.ABC):  # noqa: B024
    """See :func:`become`."""


def become(thing: Any, mixin: type) -> None:
    """Put ``mixin`` in front of an object's class."""
    own = type(thing)
    if isinstance(thing, mixin):
        return
    root = own
    while root.__base__ not in (object, abc.ABC, None):
        root = root.__base__
    # Python lets an object change its class where both have one layout, which the first base's
    # root decides: it must come from object, or from ABC, as the old one does.
    first = _Abstract if root.__base__ is abc.ABC else _Plain
    rest = own.__bases__[1:] if own.__bases__[0] is first else (own,)  # a second mixin
    bases = (first, mixin, *rest)
    metaclass: Any = type(own)
    thing.__class__ = metaclass(own.__name__, bases, {"__module__": own.__module__})


class RealClassesOnly(abc.ABC):
    """``predict`` gives the data set's K classes, whatever the model has beside them."""

    nb_classes: int

    def predict(self, x: Any, *args: Any, **kwargs: Any) -> Array:
        """(N, ...) -> (N, K)."""
        found: Array = super().predict(x, *args, **kwargs)  # type: ignore[misc]
        return found[:, : self.nb_classes]

    def _predict_framework(self, x: Any, y: Any = None) -> Any:
        output, y = super()._predict_framework(x, y)  # type: ignore[misc]
        return output[:, : self.nb_classes], y


class LabelledClassifier:
    """The loss is the scheme's inside a training step, and hard wherever attacks ask for it."""

    labelling: Labelling
    _model: Any

    def loss_gradient(self, *args: Any, **kwargs: Any) -> Any:
        """ART's, of the hard cross-entropy; in a step the model's mode is what it was."""
        mode = self._model.training
        with self.labelling.attack():
            gradient = super().loss_gradient(*args, **kwargs)  # type: ignore[misc]
        if self.labelling.active:
            self._model.train(mode)
        return gradient

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """ART's, of the hard cross-entropy."""
        with self.labelling.attack():
            return super().compute_loss(*args, **kwargs)  # type: ignore[misc]

    def fit(self, x: Any, y: Any, *args: Any, **kwargs: Any) -> None:
        """ART's; in an adversarial trainer's step, with the scheme's labels."""
        labelling = self.labelling
        numbered = decode(y) if labelling.active else None
        if numbered is None:
            super().fit(x, y, *args, **kwargs)  # type: ignore[misc]
            return
        x = labelling.begin_rest(x, *numbered)
        super().fit(x, y, *args, **kwargs)  # type: ignore[misc]
        labelling.end()


class LabelledIntervalClassifier(LabelledClassifier):
    """The certified loss is soft too: cross-entropy of the worst logits in the box (Gowal 2018)."""

    nb_classes: int
    _loss: Any

    def interval_loss_cce(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(N, 2, num_outputs) lower and upper bounds, numbered labels -> the loss."""
        y = self._begin(target)
        lower, upper = prediction[:, 0], prediction[:, 1]
        own = torch.zeros_like(lower, dtype=torch.bool).scatter_(1, y.unsqueeze(1), True)
        worst = torch.where(own, lower, upper)
        return soft_cross_entropy(worst, self.labelling.labels(worst))

    def concrete_loss(self, output: Tensor, target: Tensor) -> Tensor:
        """(N, num_outputs) logits, numbered labels -> the loss."""
        self._begin(target)
        loss: Tensor = self._loss(output, target)
        return loss

    def certify(self, preds: Any, labels: Any) -> Any:
        """ART's, on the data set's classes."""
        preds = preds[:, :, : self.nb_classes]
        return super().certify(preds=preds, labels=_classes(labels))  # type: ignore[misc]

    def get_accuracy(self, preds: Any, labels: Any) -> Any:
        """ART's, on the data set's classes."""
        preds = preds[:, : self.nb_classes]
        return super().get_accuracy(preds, _classes(labels))  # type: ignore[misc]

    def re_convert(self) -> None:
        """ART's; it is called once the optimizer has stepped."""
        super().re_convert()  # type: ignore[misc]
        if self.labelling.active:
            self.labelling.end()

    def _begin(self, target: Tensor) -> Tensor:
        numbered = decode(target.detach().cpu().numpy())
        assert numbered is not None  # fit() numbers them
        self.labelling.begin(self.labelling.inputs(numbered[1]), *numbered)
        return torch.from_numpy(numbered[0]).to(target.device)


class _OneOutput:
    """ART's wrapper runs a ``Sequential`` layer by layer and returns a list of all outputs, of
    which its TRADES and FBF trainers take the first for the logits."""

    _model: Any

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self._model(x)]


def label_classifier(classifier: Any, labelling: Labelling) -> None:
    """Widen the model to the scheme's outputs, and put the scheme into the classifier's loss.

    Raises:
        ValueError: its loss is not a plain ``CrossEntropyLoss``, or its preprocessing makes labels.
    """
    check_classifier(classifier)
    interval = hasattr(classifier, "interval_loss_cce")
    widen(classifier, labelling.scheme)
    classifier._loss = SchemeLoss(labelling, classifier.loss.reduction)
    classifier.labelling = labelling
    become(classifier, LabelledIntervalClassifier if interval else LabelledClassifier)


def check_classifier(classifier: Any) -> None:
    """A ValueError where a scheme's labels can't be this classifier's."""
    loss = classifier.loss
    if type(loss) is not nn.CrossEntropyLoss or loss.weight is not None or loss.label_smoothing:
        raise BadValueError(
            f"the classifier's loss must be a plain nn.CrossEntropyLoss, not {loss}: the scheme "
            "makes the labels"
        )
    if loss.reduction not in ("mean", "sum"):
        raise BadValueError(f"the loss's reduction must be mean or sum, not {loss.reduction!r}")
    for defence in classifier.preprocessing_operations:
        name = type(defence).__name__
        if any(part in type(defence).__module__ for part in ("label_smoothing", "mixup", "cutmix")):
            raise BadValueError(
                f"the classifier's preprocessing defence {name} makes labels, and so does the "
                "scheme: take it out (robustlabels has ls and mixup)"
            )


def widen(classifier: Any, scheme: Any) -> None:
    """Give the model ``scheme.num_outputs`` outputs, its optimizer the new parameters.

    Raises:
        ValueError: the classifier has other classes, or no layer that can be widened.
    """
    if classifier.nb_classes != scheme.num_classes:
        raise BadValueError(
            f"the scheme has {scheme.num_classes} classes and the classifier "
            f"{classifier.nb_classes}"
        )
    if isinstance(classifier.model, nn.Sequential):
        become(classifier._model, _OneOutput)
    if scheme.num_outputs != scheme.num_classes:
        become(classifier, RealClassesOnly)
    if _outputs(classifier) == scheme.num_outputs:
        return
    model = classifier.model
    before = dict(model.named_parameters())
    if hasattr(model, "ops"):  # ART's interval model
        _widen_interval(model.ops[-1], scheme)
    else:
        classifier._model._model = model = adapt_model(model, scheme)
    after = dict(model.named_parameters())
    changed = {id(before[n]): after[n] for n in before if after[n] is not before[n]}
    if classifier.optimizer is None:
        return
    for group in classifier.optimizer.param_groups:
        for old in [p for p in group["params"] if id(p) in changed]:
            classifier.optimizer.state.pop(old, None)  # its momentum has the old shape
        group["params"] = [changed.get(id(p), p) for p in group["params"]]


def _outputs(classifier: Any) -> int:
    """How many logits the model has."""
    if hasattr(classifier.model, "ops"):  # ART's interval model; its forward depends on a mode
        return int(classifier.model.ops[-1].weight.shape[0])
    mode = classifier._model.training
    try:
        x, _ = classifier._apply_preprocessing(
            np.zeros((1, *classifier.input_shape), dtype=np.float32), y=None, fit=False
        )
        classifier._model.eval()
        with torch.no_grad():
            outputs = classifier._model(torch.from_numpy(x).to(classifier.device))[-1]
        return int(outputs.shape[1])
    finally:
        classifier._model.train(mode)


def _widen_interval(dense: Any, scheme: Any) -> None:
    """ART's interval layers hold a weight and a bias, but are no ``nn.Linear``."""
    head = nn.Linear(dense.weight.shape[1], dense.weight.shape[0], device=dense.weight.device)
    head.weight, head.bias = dense.weight, dense.bias
    wider = adapt_model(nn.Sequential(head), scheme)[0]  # type: ignore[index]
    dense.weight, dense.bias = wider.weight, wider.bias


def average_of(classifier: Any, decay: float) -> ExponentialAverage:
    """An EMA of the classifier's model."""
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


def _classes(labels: Any) -> Any:
    numbered = decode(labels)
    return labels if numbered is None else numbered[0]
