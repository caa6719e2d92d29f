"""``LabelTrainer``: any objective and label scheme of ours as an ART trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustlabels import processes
from robustlabels.attacks import as_attack
from robustlabels.attacks.ready_art import ReadyArtAttack, is_art_attack
from robustlabels.data import DataSet, TensorSplit
from robustlabels.errors import BadValueError, missing_extra
from robustlabels.factories import make_attack, make_scheme
from robustlabels.integrations.art.batches import GeneratorSplit
from robustlabels.integrations.art.classifiers import (
    check_classifier,
    is_interval,
    is_smoothed,
    widen,
)
from robustlabels.integrations.art.numbered import Array, read_labels
from robustlabels.integrations.art.soft_targets import SoftTargets, with_soft_targets
from robustlabels.integrations.art.unit_range import (
    ClassifierModel,
    OnUnitRange,
    UnitRange,
    unit_range,
)
from robustlabels.labels import complete
from robustlabels.threat import parse_eps
from robustlabels.training.api import fit_config
from robustlabels.training.request import read_request
from robustlabels.training.result import FitResult

try:
    from art.defences.trainer import Trainer
except ImportError as error:
    raise missing_extra("robustlabels.integrations.art", "art") from error

KEPT = ("last", "best", "average")


class LabelTrainer(Trainer):  # type: ignore[misc]
    """Adversarial training of an ART classifier with soft labels, on our engine.

    ::

        trainer = LabelTrainer(classifier, "vs", "trades", eps=8 / 255)
        trainer.fit(x, y, nb_epochs=20)
        classifier.predict(x_test)            # (N, K)

    The classifier is trained in place, with its own optimizer, loss reduction, clip values,
    preprocessing defences and device, without augmentation. Where the scheme has virtual classes,
    its last linear layer is widened, and ``predict`` keeps to the first K columns.

    Args:
        classifier: a ``PyTorchClassifier`` with an optimizer and a ``CrossEntropyLoss``.
        scheme: a label scheme, or its name; K is the classifier's ``nb_classes``.
        objective: a trainer of ours, its name (``pgd-at``, ``trades``, ``fast-at``,
            ``standard`` ...) or a table with ``name`` and parameters.
        attack: the objective's own PGD by default; or a name or table (``art:...`` and
            ``torchattacks:...`` too), an ART attack on this classifier, a torchattacks attack, or
            one of ours; the last two on inputs scaled to [0, 1].
        eps: radius, in units of the classifier's inputs; by default the attack's, or 8/255 of
            the range that ``clip_values`` name.
        norm: "Linf" or "L2".
        teacher: for schemes with a frozen one: a RUN folder, an ``nn.Module`` on the classifier's
            inputs, or a ``PyTorchClassifier``.
        seed: of everything random; by default drawn from numpy's generator, which ART uses.
        keep: which weights the classifier has in the end: the "last", as with ART's trainers;
            the "best" on the validation data; or the "average" (with ``weight_averaging``).
        progress: called with (completed steps, all steps, the epoch's record or None).
        **options: any other field of ``robustlabels.config.Config``, e.g. ``augment``, ``awp``,
            ``weight_averaging``, ``precision``, ``channels_last``, ``extra`` (images scaled to
            [0, 1], for ``fit`` with y of one class each).

    Attributes:
        history: a record for each epoch of the last ``fit``.
        result: the last ``fit``'s :class:`robustlabels.training.FitResult`, or None.

    Raises:
        ValueError: a classifier or an argument that can't be trained with.
    """

    def __init__(
        self,
        classifier: Any,
        scheme: Any = "one-hot",
        objective: Any = "pgd-at",
        attack: Any = None,
        eps: str | float | None = None,
        *,
        norm: str = "Linf",
        teacher: Any = None,
        seed: int | None = None,
        keep: str = "last",
        progress: Callable[[int, int, Any], None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(classifier=classifier)
        if not isinstance(getattr(classifier, "model", None), nn.Module):
            raise BadValueError(f"classifier must be a PyTorchClassifier, not {type(classifier)}")
        if classifier.optimizer is None:
            raise BadValueError("the classifier needs an optimizer to be trained")
        if is_smoothed(classifier) or is_interval(classifier):
            raise BadValueError(
                f"{type(classifier).__name__} has a training of its own, which LabelTrainer would "
                "replace: use with_labels"
            )
        if keep not in KEPT:
            raise BadValueError(f"keep must be one of {', '.join(KEPT)}, not {keep!r}")
        if keep == "average" and not options.get("weight_averaging"):
            raise BadValueError("keep='average' needs weight_averaging, e.g. .995")
        taken = {"optimizer", "schedule", "batch_size", "epochs", "device", "normalize"}
        for name in sorted(taken & set(options)):
            raise BadValueError(f"{name} is no option here: the classifier or fit() determines it")
        if options.get("augment") and not _channels_first(classifier):
            raise BadValueError("augment needs images (C, H, W)")
        classes = classifier.nb_classes
        self.scheme = make_scheme(scheme, classes) if isinstance(scheme, str) else complete(scheme)
        check_classifier(classifier, self.scheme)
        widen(classifier, self.scheme)
        self.objective, self.attack, self.eps, self.norm = objective, attack, eps, norm
        self.teacher, self.seed, self.keep = teacher, seed, keep
        self.progress, self.options = progress, options
        self.result: FitResult | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """A record for each epoch of the last ``fit``."""
        return [] if self.result is None else self.result.history

    def fit(
        self,
        x: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None = None,
        batch_size: int = 128,
        nb_epochs: int = 20,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    ) -> None:
        """Train the classifier.

        Args:
            x: (N, *input_shape), in the classifier's clip values.
            y: class indices (N,) or (N, 1), or one-hot or soft labels (N, K).
            validation_data: such a pair; judged after each epoch, under PGD-10 too.
            batch_size: of training.
            nb_epochs: passes over the data.
            scheduler: of the classifier's optimizer, stepped after each epoch.

        Raises:
            ValueError: data that don't fit the classifier. RuntimeError: training diverged.
        """
        more = () if validation_data is None else _pair(validation_data)
        span = unit_range(self._classifier, [x, *more[:1]], self._radius(None))
        classes, soft = self._labels(y, "y")
        unit = span.to_unit(x)
        if len(unit) != len(classes):
            raise BadValueError(f"x has {len(unit)} samples and y {len(classes)}")
        if soft is not None and self.options.get("extra") is not None:
            raise BadValueError("extra needs y as class indices or one-hot, not soft labels")
        scheme = self.scheme if soft is None else with_soft_targets(self.scheme, soft)
        held_out = torch.empty(0, dtype=torch.int64)
        if more:
            seen = len(unit)
            labels, _ = self._labels(more[1], "validation y")
            unit = torch.cat([_floating(unit), _floating(span.to_unit(more[0], "validation x"))])
            classes = np.concatenate([classes, labels])
            held_out = torch.arange(seen, len(unit))
        split = TensorSplit(unit, torch.from_numpy(classes))
        self._run(split, span, scheme, held_out, batch_size, nb_epochs, scheduler)

    def fit_generator(
        self,
        generator: Any,
        nb_epochs: int = 20,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    ) -> None:
        """Train the classifier on a generator's batches.

        Args:
            generator: any of ART's data generators; the classifier must have clip values.
            nb_epochs: so many times the generator's size.
            scheduler: of the classifier's optimizer, stepped after each epoch.

        Raises:
            ValueError: the generator doesn't tell its size, or the scheme needs samples' numbers.
        """
        if "index" in self.scheme.needs:
            raise BadValueError("this scheme needs each sample's index: use fit, not fit_generator")
        if self.options.get("extra") is not None:
            raise BadValueError("extra needs fit: a generator's batches are taken as they are")
        if self.options.get("accumulate", 1) != 1:
            raise BadValueError("accumulate needs fit: a generator's batches are not split")
        if processes.started() > 1:
            raise BadValueError("several processes need fit: a generator's batches are not split")
        span = unit_range(self._classifier, [], 0.0)
        split = GeneratorSplit(generator, span, self.scheme.num_classes)
        scheme = self.scheme
        if "mix" not in scheme.needs:
            scheme = SoftTargets(scheme, lambda _: split.soft)
        none = torch.empty(0, dtype=torch.int64)
        self._run(split, span, scheme, none, generator.batch_size, nb_epochs, scheduler)

    def predict(self, x: Any, **kwargs: Any) -> Array:
        """The classifier's own: (N, K)."""
        found: Array = self._classifier.predict(x, **kwargs)
        return found

    def _run(
        self,
        split: Any,
        span: UnitRange,
        scheme: Any,
        held_out: Tensor,
        batch_size: int,
        epochs: int,
        scheduler: Any,
    ) -> None:
        if scheduler is not None and not isinstance(
            scheduler, torch.optim.lr_scheduler.LRScheduler
        ):
            raise BadValueError(f"scheduler must be a torch LRScheduler, not {type(scheduler)}")
        classifier = self._classifier
        model = ClassifierModel(classifier, span)
        radius = self._radius(span) / span.width
        seed = int(np.random.randint(2**31)) if self.seed is None else self.seed
        shape = (*span.shape,) if span.images else (int(np.prod(span.shape)), 1, 1)
        data = DataSet("art", split, None, scheme.num_classes, shape, opaque=True)  # type: ignore[arg-type]
        config, given = read_request(
            model,
            data,
            scheme,
            self.objective,
            self._attack(span, radius),
            None if self.teacher is None else self._teacher(span),
            None,
            **self.options,
            eps=radius,
            norm=self.norm,
            seed=seed,
            batch_size=batch_size,
            epochs=epochs,
            device=str(classifier.device),
        )
        given.optimizer, given.scheduler = classifier.optimizer, scheduler
        given.reduction, given.held_out = classifier.loss.reduction, held_out
        self.result = fit_config(config, given=given, progress=self.progress)
        if self.keep == "last":
            model.load_state_dict(self.result.last)
        elif self.keep == "average":
            assert self.result.average is not None  # __init__ has checked
            model.load_state_dict(self.result.average)

    def _labels(self, y: Any, what: str) -> tuple[Array, Array | None]:
        return read_labels(y, self.scheme.num_classes, what)

    def _radius(self, span: UnitRange | None) -> float:
        """eps in the classifier's units."""
        eps = self.eps
        if eps is None and not isinstance(self.attack, str | Mapping):
            eps = getattr(self.attack, "eps", None)
            if eps is not None and not is_art_attack(self.attack):  # of an attack on [0, 1]
                return float(eps) * (1.0 if span is None else span.width)
        if eps is not None:
            return parse_eps(eps, "L2")
        clip = self._classifier.clip_values
        width = 1.0 if clip is None else float(np.max(clip[1]) - np.min(clip[0]))
        return 8 / 255 * width

    def _attack(self, span: UnitRange, radius: float) -> Any:
        attack = self.attack
        if attack is None or isinstance(attack, str):
            return attack
        if isinstance(attack, Mapping):
            table = dict(attack)
            return make_attack(table.pop("name"), radius, self.norm, **table)
        if is_art_attack(attack):
            return _OnUnits(ReadyArtAttack(attack, scaled=False), self._classifier.model, span)
        return as_attack(attack)

    def _teacher(self, span: UnitRange) -> Any:
        teacher = self.teacher
        if hasattr(teacher, "_apply_preprocessing"):
            return ClassifierModel(teacher, span)
        if isinstance(teacher, nn.Module):
            return OnUnitRange(teacher, span)
        from robustlabels.loading import load_run

        run = load_run(teacher)
        return OnUnitRange(run.model, span)


class _OnUnits:
    """An ART attack, which works on the classifier's units, among attacks on [0, 1]."""

    def __init__(self, attack: Any, model: nn.Module, span: UnitRange) -> None:
        self._attack, self._model, self._span = attack, model, span
        self.takes_soft_labels = attack.takes_soft_labels

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`robustlabels.attacks.Attack`."""
        found = self._attack(self._model, self._span.from_unit(x), y)
        return self._span.scaled(found).reshape(x.shape)

    def __repr__(self) -> str:
        return repr(self._attack)


def _pair(validation_data: Any) -> tuple[Any, Any]:
    if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
        raise BadValueError(
            f"validation_data must be a pair (x, y), not a {type(validation_data).__name__}"
        )
    x, y = validation_data
    return x, y


def _floating(unit: Tensor) -> Tensor:
    return unit.float() / 255 if unit.dtype == torch.uint8 else unit


def _channels_first(classifier: Any) -> bool:
    return bool(classifier.channels_first) and len(classifier.input_shape) == 3
