"""ART's PyTorch classifiers with a scheme in their loss, and with virtual classes.

An object is given a subclass of its own class; ART's files and classes are left alone.
"""

from __future__ import annotations

import abc
import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels.attacks import held_still
from robustlabels.errors import BadValueError
from robustlabels.integrations.art.labelling import Labelling, SchemeLoss
from robustlabels.integrations.art.numbered import Array, decode
from robustlabels.labels import soft_cross_entropy
from robustlabels.models import adapt_model


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """For pickle and copy: nobody finds the class by its name."""
    _, *mixins, own = type(self).__bases__
    made: Any = object.__reduce_ex__(self, max(2, protocol))
    return _blank, (own, mixins[::-1]), *made[2:]


def _blank(own: type, mixins: list[type]) -> Any:
    thing: Any = object.__new__(own)
    for mixin in mixins:
        become(thing, mixin)
    return thing


class _Plain:
    """See :func:`become`."""

    __reduce_ex__ = _reduce


class _Abstract(abc.ABC):  # noqa: B024
    """See :func:`become`."""

    __reduce_ex__ = _reduce


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

    def clone_for_refitting(self) -> Any:
        """ART's; the clone's loss is hard, because it is in no trainer."""
        clone = super().clone_for_refitting()  # type: ignore[misc]
        clone.labelling = self.labelling
        _give_one_output(clone)
        return clone

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]
        _give_one_output(self)


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
    """ART's wrapper runs a ``Sequential`` layer by layer and returns a list of all outputs; its
    TRADES and FBF trainers count accuracy on the first."""

    _model: Any

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self._model(x)]


def _give_one_output(classifier: Any) -> None:
    if isinstance(classifier.model, nn.Sequential):
        become(classifier._model, _OneOutput)


def label_classifier(classifier: Any, labelling: Labelling) -> None:
    """Widen the model to the scheme's outputs, and put the scheme into the classifier's loss.

    Args:
        classifier: one that :func:`check_classifier` has let through.
        labelling: of its trainer.
    """
    widen(classifier, labelling.scheme)
    classifier._loss = SchemeLoss(labelling, classifier.loss.reduction)
    classifier.labelling = labelling
    _give_one_output(classifier)
    become(
        classifier, LabelledIntervalClassifier if is_interval(classifier) else LabelledClassifier
    )


def check_classifier(classifier: Any, scheme: Any) -> None:
    """A ValueError where a scheme's labels can't be this classifier's; nothing is changed."""
    if hasattr(classifier, "labelling"):
        raise BadValueError("the classifier has labels already (with_labels): make a new one")
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
        if getattr(defence, "augmentation", False) and defence.apply_fit:
            raise BadValueError(
                f"the classifier's preprocessing defence {name} adds samples to a batch, whose "
                "labels are not known: make it with augmentation=False"
            )
    if classifier.nb_classes != scheme.num_classes:
        raise BadValueError(
            f"the scheme has {scheme.num_classes} classes and the classifier "
            f"{classifier.nb_classes}"
        )
    if scheme.num_outputs != scheme.num_classes and is_smoothed(classifier):
        raise BadValueError(
            f"{type(classifier).__name__} counts votes over all outputs of its model, virtual "
            "classes among them: use a scheme without those"
        )
    if (
        not is_interval(classifier)
        and _outputs(classifier, classifier._model) != scheme.num_outputs
    ):
        _try_widening(classifier, scheme)


def is_smoothed(classifier: Any) -> bool:
    """Whether it is one of ART's (de-)randomized smoothing classifiers, which fit on noise."""
    return hasattr(classifier, "_predict_classifier")


def is_interval(classifier: Any) -> bool:
    """Whether it is ART's certified one, whose model's forward depends on a mode."""
    return hasattr(classifier, "interval_loss_cce")


def _try_widening(classifier: Any, scheme: Any) -> None:
    """The last linear layer need not be the one that gives the logits: look, on a copy."""
    try:
        wrapper = copy.deepcopy(classifier._model)
        with torch.random.fork_rng(devices=[]):
            wrapper._model = adapt_model(wrapper._model, scheme)
        found = _outputs(classifier, wrapper)
        problem = f"with its last Linear layer widened the model has {found} outputs"
    except (RuntimeError, ValueError) as error:
        found, problem = None, " ".join(str(error).split())[:200]
    if found != scheme.num_outputs:
        raise BadValueError(
            f"the scheme needs {scheme.num_outputs} outputs ({problem}): widen the model before "
            "the classifier is made, rl.adapt_model(model, scheme, layer=...)"
        )


def widen(classifier: Any, scheme: Any) -> None:
    """Give the model ``scheme.num_outputs`` outputs, its optimizer the new parameters.

    Args:
        classifier: one that :func:`check_classifier` has let through.
        scheme: a label scheme.
    """
    if scheme.num_outputs == scheme.num_classes:
        return
    become(classifier, RealClassesOnly)
    model = classifier.model
    before = dict(model.named_parameters())
    if is_interval(classifier):
        _widen_interval(model.ops[-1], scheme)
    elif _outputs(classifier, classifier._model) != scheme.num_outputs:
        classifier._model._model = model = adapt_model(model, scheme)
    after = dict(model.named_parameters())
    changed = {id(before[n]): after[n] for n in before if after[n] is not before[n]}
    if classifier.optimizer is None:
        return
    for group in classifier.optimizer.param_groups:
        for old in [p for p in group["params"] if id(p) in changed]:
            classifier.optimizer.state.pop(old, None)  # its momentum has the old shape
        group["params"] = [changed.get(id(p), p) for p in group["params"]]


@torch.no_grad()
def _outputs(classifier: Any, wrapper: nn.Module) -> int:
    """How many logits ART's wrapper of a model gives."""
    grey = np.zeros((1, *classifier.input_shape), dtype=np.float32)
    x, _ = classifier._apply_preprocessing(grey, y=None, fit=False)
    with held_still(wrapper):
        return int(wrapper(torch.from_numpy(x).to(classifier.device))[-1].shape[1])


def _widen_interval(dense: Any, scheme: Any) -> None:
    """ART's interval layers hold a weight and a bias, but are no ``nn.Linear``."""
    head = nn.Linear(dense.weight.shape[1], dense.weight.shape[0], device=dense.weight.device)
    head.weight, head.bias = dense.weight, dense.bias
    wider = adapt_model(nn.Sequential(head), scheme)[0]  # type: ignore[index]
    dense.weight, dense.bias = wider.weight, wider.bias


def _classes(labels: Any) -> Any:
    numbered = decode(labels)
    return labels if numbered is None else numbered[0]
