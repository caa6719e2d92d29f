"""``with_labels``: one of ART's own trainers, with a label scheme in its loss."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from robustlabels.errors import BadValueError, RobustLabelsWarning, missing_extra
from robustlabels.factories import make_scheme
from robustlabels.integrations.art import trainers
from robustlabels.integrations.art.classifiers import become, check_classifier, label_classifier
from robustlabels.integrations.art.labelling import Labelling
from robustlabels.integrations.art.teachers import make_teacher
from robustlabels.labels import complete

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
    first K columns. Each ``fit`` goes through the scheme's schedule once; an EMA teacher starts
    with the first ``fit`` and goes on in the next. What ART gets wrong and is mended on the way is
    told by a ``RobustLabelsWarning``.

    Args:
        trainer: an instance of one of ART's PyTorch trainers: ``AdversarialTrainer``,
            ``MadryPGD``, ``TRADES``, ``AWP``, ``FBF``, ``OAAT`` or the IBP-certified one.
        scheme: a label scheme or its name; K is the classifier's ``nb_classes``.
        teacher: for schemes with a frozen one: a RUN folder, an ``nn.Module`` on inputs as ``fit``
            gets them, or an ART ``PyTorchClassifier``.

    Returns:
        ``trainer``.

    Raises:
        ValueError: another trainer, a loss that is not ``CrossEntropyLoss``, a targeted attack, a
            scheme of other classes, or one that this trainer can't serve. Nothing is changed then.
    """
    try:
        import art.defences.trainer  # noqa: F401
    except ImportError as error:
        raise missing_extra("with_labels", "art") from error
    for notice in _label(trainer, scheme, teacher):
        warnings.warn(f"ART's {notice} (docs/art.md)", RobustLabelsWarning, stacklevel=2)
    return trainer


def _label(trainer: Any, scheme: Any, teacher: Any) -> list[str]:
    """Do it; returns what the user should know of ART."""
    from art.defences.trainer import AdversarialTrainerMadryPGD

    if hasattr(trainer, "labelling"):
        raise BadValueError("this trainer has a label scheme already: make a new one")
    if isinstance(trainer, AdversarialTrainerMadryPGD):
        notices = _label(trainer.trainer, scheme, teacher)
        trainer.labelling = trainer.trainer.labelling
        become(trainer, trainers.MadryTrainer)
        return [*notices, "Madry attacked 32 inputs at a time, and now attacks the whole batch"]
    mixin = _mixin(trainer)
    classifier = trainer._classifier
    if not hasattr(classifier, "model"):
        raise BadValueError(f"the classifier must be a PyTorchClassifier, not {type(classifier)}")
    if isinstance(scheme, str):
        scheme = make_scheme(scheme, classifier.nb_classes)
    labelling = Labelling(complete(scheme), classifier.device, _is_pgd(trainer))
    classifiers = [classifier, *_companions(trainer)]
    _check(trainer, mixin, labelling.moves)
    for each in classifiers:
        check_classifier(each, scheme)
    labelling.teacher = make_teacher(teacher, scheme, classifier)
    # Nothing has been changed so far, and nothing is refused from here on.
    for each in classifiers:
        label_classifier(each, labelling)
    for attack in getattr(trainer, "attacks", []):
        attack.labelling = labelling
        become(attack, trainers.LabelledAttack)
    trainer.labelling = labelling
    become(trainer, mixin)
    return _notices(trainer, mixin)


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
    from art.defences import trainer as art

    if isinstance(trainer, art.AdversarialTrainerAWPPyTorch):
        return str(trainer._mode).lower() == "pgd"
    return isinstance(trainer, art.AdversarialTrainer | art.AdversarialTrainerFBFPyTorch)


def _check(trainer: Any, mixin: type, moves: bool) -> None:
    """Refuse attacks and schemes that this trainer can't serve."""
    attacks = [*getattr(trainer, "attacks", []), getattr(trainer, "_attack", None)]
    if any(getattr(attack, "targeted", False) for attack in attacks):
        raise BadValueError(
            "the attack is targeted, and would make its inputs easier: the labels it is given are "
            "the true ones; make it with targeted=False"
        )
    if moves and trainers.transfers(trainer):
        raise BadValueError(
            "this scheme moves the inputs of each batch, but an attack on another model is run "
            "once, before training: attack the classifier itself"
        )
    if moves and mixin is trainers.IntervalTrainer:
        raise BadValueError(
            "this scheme moves the inputs; the certified trainer puts its boxes around those it "
            "was given: use a scheme that leaves them alone"
        )


def _notices(trainer: Any, mixin: type) -> list[str]:
    """What ART does, and what is mended here."""
    from art.defences.trainer import AdversarialTrainerTRADESPyTorch

    notices = []
    if isinstance(trainer._classifier.model, nn.Sequential):
        notices.append("Sequential was run layer by layer, and now gives one output")
    if mixin is trainers.FastTrainer:
        notices.append("FBF trained in eval mode and failed on class indices; neither is so now")
    if mixin is trainers.OracleAlignedTrainer:
        notices.append("OAAT never averaged its weights; now it does")
    if isinstance(trainer, AdversarialTrainerTRADESPyTorch):
        notices.append("TRADES has no KL maximisation: it takes the attack that it was given")
    return notices


def _companions(trainer: Any) -> list[Any]:
    """The other classifiers that copy the weights of the first (AWP, OAAT)."""
    others = [getattr(trainer, n, None) for n in ("_proxy_classifier", "_lpips_classifier")]
    return [c for c in (*others, *getattr(trainer, "_list_avg_models", [])) if c is not None]
