"""``with_labels``: one of ART's own trainers, with a label scheme in its loss."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels.errors import BadValueError, RobustLabelsWarning, missing_extra
from robustlabels.factories import make_scheme
from robustlabels.integrations.art import trainers
from robustlabels.integrations.art.classifiers import average_of, become, label_classifier
from robustlabels.integrations.art.labelling import Labelling
from robustlabels.integrations.art.numbered import Array
from robustlabels.labels import complete
from robustlabels.training.teachers import load_teacher

ALLOWED = (
    "AdversarialTrainer, AdversarialTrainerMadryPGD, AdversarialTrainerTRADESPyTorch, "
    "AdversarialTrainerAWPPyTorch, AdversarialTrainerFBFPyTorch, AdversarialTrainerOAATPyTorch, "
    "AdversarialTrainerCertifiedIBPPyTorch"
)


def with_labels(trainer: Any, scheme: Any, teacher: Any = None) -> Any:
    """Make an ART trainer's loss see a scheme's soft labels, and its attack hard ones.

    ``trainer.fit(x, y)`` and ``fit_generator`` stay ART's own. The trainer, its classifier and its
    attacks get subclasses of their own classes; outside ``fit`` the classifier's loss is the hard
    cross-entropy. Where the scheme has virtual classes, the model's last linear layer is widened
    in place, the optimizer is given the new parameters, and ``classifier.predict`` keeps to the
    first K columns. Each ``fit`` goes through the scheme's schedule once; an EMA teacher goes on
    from one ``fit`` to the next. What ART gets wrong and is mended on the way is told by a
    ``RobustLabelsWarning``.

    Args:
        trainer: an instance of one of ART's PyTorch trainers: ``AdversarialTrainer``,
            ``MadryPGD``, ``TRADES``, ``AWP``, ``FBF``, ``OAAT`` or the IBP-certified one.
        scheme: a label scheme or its name; K is the classifier's ``nb_classes``.
        teacher: for schemes with a frozen one: a RUN folder, an ``nn.Module`` on inputs as ``fit``
            gets them, or an ART ``PyTorchClassifier``.

    Returns:
        ``trainer``.

    Raises:
        ValueError: another trainer, a loss that is not ``CrossEntropyLoss``, a scheme of other
            classes, or one that this trainer can't serve.
    """
    try:
        from art.defences.trainer import AdversarialTrainerMadryPGD
    except ImportError as error:
        raise missing_extra("with_labels", "art") from error
    if hasattr(trainer, "labelling"):
        raise BadValueError("this trainer has a label scheme already: make a new one")
    if isinstance(trainer, AdversarialTrainerMadryPGD):
        with_labels(trainer.trainer, scheme, teacher)
        trainer.labelling = trainer.trainer.labelling
        _warn("Madry", "attacked 32 inputs at a time, and now attacks the whole batch")
        become(trainer, trainers.MadryTrainer)
        return trainer
    mixin = _mixin(trainer)
    classifier = trainer._classifier
    if not hasattr(classifier, "model"):
        raise BadValueError(f"the classifier must be a PyTorchClassifier, not {type(classifier)}")
    if isinstance(scheme, str):
        scheme = make_scheme(scheme, classifier.nb_classes)
    scheme = complete(scheme)
    soft_attack = scheme.attack_labels == "soft" and _is_pgd(trainer)
    labelling = Labelling(scheme, classifier.device, soft_attack)
    _check(trainer, mixin, labelling, classifier)
    frozen = _frozen(teacher, scheme, classifier)
    label_classifier(classifier, labelling)
    for other in _companions(trainer):
        label_classifier(other, labelling)
    if scheme.teacher == "ema":
        average = average_of(classifier, float(scheme.ema_decay))
        labelling.teach = _Taught(average.model, classifier)
        labelling.after_step = average.update
    elif frozen is not None:
        labelling.teach = frozen
    for attack in getattr(trainer, "attacks", []):
        attack.labelling = labelling
        become(attack, trainers.LabelledAttack)
    trainer.labelling = labelling
    become(trainer, mixin)
    return trainer


class _Taught:
    """A teacher's logits on inputs as ART has them.

    Args:
        model: in eval mode.
        classifier: whose preprocessing comes before it; None for inputs as they are.
    """

    def __init__(self, model: nn.Module, classifier: Any, device: torch.device | None = None):
        self._model, self._classifier = model, classifier
        self._device = classifier.device if device is None else device

    @torch.no_grad()
    def __call__(self, x: Array) -> Tensor:
        if self._classifier is not None:
            x, _ = self._classifier._apply_preprocessing(x, y=None, fit=False)
        logits: Tensor = self._model(torch.as_tensor(x, device=self._device))
        return logits.float()


def _mixin(trainer: Any) -> type:
    from art.defences import trainer as art

    for theirs, mixin in (
        ("AdversarialTrainerTRADESPyTorch", trainers.SteppingTrainer),
        ("AdversarialTrainerAWPPyTorch", trainers.SteppingTrainer),
        ("AdversarialTrainerFBFPyTorch", trainers.FastTrainer),
        ("AdversarialTrainerOAATPyTorch", trainers.OracleAlignedTrainer),
        ("AdversarialTrainerCertifiedIBPPyTorch", trainers.IntervalTrainer),
        ("AdversarialTrainer", trainers.AttackingTrainer),
    ):
        if isinstance(trainer, getattr(art, theirs)):
            return mixin
    if isinstance(trainer, art.AdversarialTrainerCertifiedPytorch):
        raise BadValueError(
            "ART's DeepZ trainer (AdversarialTrainerCertifiedPytorch) fails on numpy 2 and takes "
            "no labels: use AdversarialTrainerCertifiedIBPPyTorch"
        )
    raise BadValueError(f"trainer must be one of {ALLOWED}, not {type(trainer).__name__}")


def _is_pgd(trainer: Any) -> bool:
    """Whether the objective is CE(f(x'), q), so that ADR's attack sees q."""
    name = type(trainer).__name__
    if "AWP" in name:
        return str(trainer._mode).lower() == "pgd"
    return name in ("AdversarialTrainer", "AdversarialTrainerFBFPyTorch")


def _check(trainer: Any, mixin: type, labelling: Labelling, classifier: Any) -> None:
    """Refuse what can't work; warn of what ART does and what is mended here."""
    scheme = labelling.scheme
    transfers = [a for a in getattr(trainer, "attacks", []) if a.estimator is not classifier]
    if labelling.moves and transfers:
        raise BadValueError(
            f"{type(scheme).__name__} moves the inputs of each batch, but an attack on another "
            "model is run once, before training: attack the classifier itself"
        )
    if labelling.moves and mixin is trainers.IntervalTrainer:
        raise BadValueError(
            f"{type(scheme).__name__} moves the inputs; the certified trainer puts its boxes "
            "around those it was given: use a scheme that leaves them alone"
        )
    if isinstance(classifier.model, nn.Sequential):
        _warn("Sequential", "was run layer by layer by ART, and now gives one output")
    if mixin is trainers.FastTrainer:
        _warn("FBF", "trained in eval mode and failed on class indices; neither is so now")
    if mixin is trainers.OracleAlignedTrainer:
        _warn("OAAT", "never averaged its weights; now it does")
    if "TRADES" in type(trainer).__name__:
        _warn("TRADES", "has no KL maximisation of its own: it takes the attack it was given")


def _warn(what: str, how: str) -> None:
    warnings.warn(f"ART's {what} {how} (docs/art.md)", RobustLabelsWarning, stacklevel=4)


def _companions(trainer: Any) -> list[Any]:
    """The other classifiers that copy the weights of the first (AWP, OAAT)."""
    others = [getattr(trainer, n, None) for n in ("_proxy_classifier", "_lpips_classifier")]
    return [c for c in (*others, *getattr(trainer, "_list_avg_models", [])) if c is not None]


def _frozen(teacher: Any, scheme: Any, classifier: Any) -> _Taught | None:
    if scheme.teacher != "frozen":
        if teacher is not None:
            raise BadValueError(f"{type(scheme).__name__} has no frozen teacher: leave teacher out")
        return None
    if teacher is None:
        raise BadValueError(
            f"{type(scheme).__name__} needs a teacher: a run, an nn.Module or a PyTorchClassifier"
        )
    own = teacher if hasattr(teacher, "_apply_preprocessing") else None
    module = teacher.model if own is not None else teacher
    if not isinstance(module, nn.Module) and not Path(str(module)).is_dir():
        raise BadValueError(f"no run at {module}: give a RUN folder, or a model as an object")
    loaded = load_teacher(module, scheme.num_classes, _no_student).to(classifier.device)
    return _Taught(loaded, own, classifier.device)


def _no_student(outputs: int) -> nn.Module:
    raise BadValueError(
        f"a checkpoint alone names no model of {outputs} outputs: give a RUN folder"
    )
