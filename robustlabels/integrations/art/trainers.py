"""ART's trainers, one mixin for each way in which they take a step.

``fit`` and ``fit_generator`` stay ART's own: they are handed numbered labels (see ``numbered``),
and what they do with a batch is labelled on the way.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import torch
from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.classifiers import become
from robustlabels.integrations.art.labelling import Labelling
from robustlabels.integrations.art.numbered import Array, decode
from robustlabels.labels.base import one_hot


class LabelledTrainer:
    """Numbers the labels on their way into ART's ``fit`` and ``fit_generator``."""

    labelling: Labelling
    batch_size: int | None = None
    nb_epochs: int | None = None

    def fit(self, x: Any, y: Any, *args: Any, **kwargs: Any) -> None:
        """ART's own, with the scheme's labels in its loss.

        Args:
            x: (N, ...), as ART takes it.
            y: class indices (N,) or (N, 1), or one-hot or soft labels (N, K).
            *args: ART's.
            **kwargs: ART's.
        """
        own = super().fit  # type: ignore[misc]
        given = inspect.signature(own).bind(x, y, *args, **kwargs)
        given.apply_defaults()
        named = given.arguments
        size = named.get("batch_size") or self.batch_size or len(x)
        epochs = named.get("nb_epochs") or self.nb_epochs or 1
        _recognisable(named.get("scheduler"))
        with self.labelling.training(epochs, math.ceil(len(x) / size)):
            own(x, self.labelling.number(x, y), *args, **kwargs)

    def fit_generator(self, generator: Any, *args: Any, **kwargs: Any) -> None:
        """ART's own, with the scheme's labels in its loss.

        Args:
            generator: any of ART's data generators.
            *args: ART's.
            **kwargs: ART's.
        """
        own = super().fit_generator  # type: ignore[misc]
        given = inspect.signature(own).bind(generator, *args, **kwargs)
        given.apply_defaults()
        epochs = given.arguments.get("nb_epochs") or 1
        _recognisable(given.arguments.get("scheduler"))
        steps = math.ceil((generator.size or generator.batch_size) / generator.batch_size)
        with self.labelling.training(epochs, steps, generated=True):
            own(_Numbering(generator, self.labelling), *args, **kwargs)


class AttackingTrainer(LabelledTrainer):
    """``AdversarialTrainer``: it attacks part of a batch, then calls the classifier's ``fit``."""

    def fit_generator(self, generator: Any, *args: Any, **kwargs: Any) -> None:
        """ART's own; it gives inputs that were attacked before training any samples' labels."""
        if transfers(self):
            raise BadValueError(
                "an attack with an estimator of its own is run once, before training, and ART "
                "mixes up its inputs' labels in fit_generator: use fit"
            )
        super().fit_generator(generator, *args, **kwargs)


def transfers(trainer: Any) -> bool:
    """Whether an ``AdversarialTrainer`` has an attack on another classifier than its own."""
    return any(a.estimator is not trainer._classifier for a in getattr(trainer, "attacks", []))


class MadryTrainer:
    """``AdversarialTrainerMadryPGD``: its attack works on the whole batch, not on 32 at a time."""

    batch_size: int | None
    attack: Any

    def fit(
        self,
        x: Any,
        y: Any,
        validation_data: Any = None,
        batch_size: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """ART's own; see :class:`LabelledTrainer`."""
        size = batch_size or self.batch_size
        if size is not None:
            self.attack.set_params(batch_size=size)
        super().fit(x, y, validation_data, batch_size, *args, **kwargs)  # type: ignore[misc]


class SteppingTrainer(LabelledTrainer):
    """TRADES, AWP: one method does a step, attack included."""

    def _batch_process(self, x_batch: Array, y_batch: Array, *rest: Any) -> Any:
        return self._labelled(super()._batch_process, (), x_batch, y_batch, rest)  # type: ignore[misc]

    def _labelled(
        self, own: Any, before: tuple[Any, ...], x: Array, y: Array, rest: tuple[Any, ...]
    ) -> Any:
        numbered = decode(y)
        if numbered is None:  # called by hand, outside fit()
            return own(*before, x, y, *rest)
        labelling = self.labelling
        x = labelling.begin(x, *numbered)
        done = own(*before, x, labelling.attack_target(), *rest)
        labelling.end()
        return done


class FastTrainer(SteppingTrainer):
    """FBF: ART leaves the model in eval mode, so that batch norm never learns; here it trains."""

    _classifier: Any

    def _batch_process(self, x_batch: Array, y_batch: Array, *rest: Any) -> Any:
        model = self._classifier._model
        model.train()
        hooks = []
        if len(x_batch) == 1:  # at each forward pass, because ART's attack resets the mode
            hooks = [model.register_forward_pre_hook(_hold_batch_norm)]
        try:
            return super()._batch_process(x_batch, y_batch, *rest)
        finally:
            for hook in hooks:
                hook.remove()
            model.eval()


def _hold_batch_norm(model: nn.Module, _: Any) -> None:
    """Put batch norm in eval mode, because it cannot train on one sample."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


class OracleAlignedTrainer(SteppingTrainer):
    """OAAT: ART assigns the averaged weights to a copy; here the average models get them."""

    _classifier: Any
    _list_avg_models: list[Any]
    _train_params: dict[str, Any]

    def _batch_process(  # type: ignore[override]
        self, i_epoch: int, nb_epochs: int, batch_id: int, x_batch: Array, y_batch: Array
    ) -> Any:
        own = super(SteppingTrainer, self)._batch_process  # type: ignore[misc]
        done = self._labelled(own, (i_epoch, nb_epochs, batch_id), x_batch, y_batch, ())
        self._average(i_epoch)
        return done

    @torch.no_grad()
    def _average(self, epoch: int) -> None:
        """ART's formula, for the models whose epoch has come."""
        current = self._classifier.model.state_dict()
        first, taus = self._train_params["list_swa_epoch"], self._train_params["list_swa_tau"]
        for start, tau, averaged in zip(first, taus, self._list_avg_models, strict=True):
            if epoch < start:
                continue
            for name, value in averaged.model.state_dict().items():
                if epoch == start or not value.is_floating_point():
                    value.copy_(current[name])
                else:
                    value.lerp_(current[name], 1 - tau)

    def _attack_lpips(self, *args: Any, **kwargs: Any) -> Any:
        with self.labelling.attack():
            return super()._attack_lpips(*args, **kwargs)  # type: ignore[misc]

    def update_learning_rate(
        self, optimizer: Any, epoch: int, nb_epochs: int, lr_schedule: str = "step"
    ) -> None:
        """ART's; its "step" schedule fails before the first step, where the rate is the base's."""
        if lr_schedule.lower() == "step" and epoch < 75 * nb_epochs / 110:
            for group in optimizer.param_groups:
                group["lr"] = self._train_params["lr"]
            return
        super().update_learning_rate(optimizer, epoch, nb_epochs, lr_schedule)  # type: ignore[misc]


class IntervalTrainer(LabelledTrainer):
    """``AdversarialTrainerCertifiedIBPPyTorch``: its classifier's two losses are labelled."""

    def fit(
        self,
        x: Any,
        y: Any,
        limits: Any = None,
        certification_loss: Any = "interval_loss_cce",
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """ART's own; see :class:`LabelledTrainer`."""
        if certification_loss != "interval_loss_cce":
            raise BadValueError(
                "certification_loss must be 'interval_loss_cce': another one makes its own labels"
            )
        super().fit(x, y, limits, certification_loss, *args, **kwargs)


class LabelledAttack:
    """An ART attack in :class:`AttackingTrainer`: it sees hard labels, and starts the batch."""

    labelling: Labelling
    estimator: Any

    def generate(self, x: Array, y: Any = None, **kwargs: Any) -> Array:
        """ART's own; numbered labels become what the attack shall see."""
        labelling = self.labelling
        numbered = decode(y) if labelling.active and y is not None else None
        if numbered is None:
            found: Array = super().generate(x, y, **kwargs)  # type: ignore[misc]
        elif getattr(self.estimator, "labelling", None) is not labelling:  # a transfer
            hot = one_hot(
                torch.from_numpy(numbered[0]), labelling.scheme.num_classes, torch.rand(0)
            )
            found = super().generate(x, hot.numpy(), **kwargs)  # type: ignore[misc]
        else:
            x = labelling.begin(x, *numbered)
            labelling.attacked = labelling.batch
            with labelling.attack():
                target = labelling.attack_target()
                found = super().generate(x, target, **kwargs)  # type: ignore[misc]
        return found


class _Numbering:
    """A data generator whose labels are numbered within each batch."""

    def __init__(self, generator: Any, labelling: Labelling) -> None:
        self._generator, self._labelling = generator, labelling

    def get_batch(self) -> tuple[Array, Array]:
        """The next batch."""
        x, y = self._generator.get_batch()
        x = np.asarray(x)  # ART takes no tensors
        return x, self._labelling.number(x, y)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def _recognisable(scheduler: Any) -> None:
    """ART asks for ``_LRScheduler``, which torch's own schedulers no longer are."""
    if isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
        become(scheduler, torch.optim.lr_scheduler._LRScheduler)
