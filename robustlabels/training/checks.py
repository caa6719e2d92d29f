"""Whether a model, its data and a scheme fit together, asked before training starts."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustlabels.attacks import held_still
from robustlabels.config import Config
from robustlabels.data import DataSet, Split, TensorSplit
from robustlabels.errors import BadValueError, DataError, RobustLabelsWarning


def check_labels(split: Split, data: DataSet) -> None:
    """A DataError for fewer than 2 training samples, or a class that is none."""
    if len(split) < 2:
        raise DataError(f"data set {data.name!r} has {len(split)} training samples; 2 are needed")
    if isinstance(split, TensorSplit):
        low, high = int(split.y.min()), int(split.y.max())
        if low < 0 or high >= data.num_classes:
            raise DataError(
                f"data set {data.name!r} has labels from {low} to {high}; with "
                f"{data.num_classes} classes they must be in [0, {data.num_classes - 1}]"
            )


def check_trainable(model: nn.Module, samples: int, config: Config) -> None:
    """A ValueError for a frozen model, or parts of a batch that batch norm can't train on.

    Args:
        model: that is to be trained.
        samples: of a batch that are trained on.
        config: the run's.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise BadValueError("the model has no parameter that requires a gradient: nothing to train")
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if broken:
        raise BadValueError(
            f"the model's weights must be finite before training, but {broken[0]} has NaN or "
            "infinite values: check the model, or the weights that it starts from (init)"
        )
    norms = any(isinstance(m, _BatchNorm) for m in model.modules())
    if norms and samples // config.accumulate < 2:
        raise BadValueError(
            f"{samples} samples of batch_size {config.batch_size} in {config.accumulate} parts "
            "leave batch norm fewer than 2 samples: raise batch_size or lower accumulate"
        )


def check_attack(scheme: Any, attack: Any) -> None:
    """A ValueError for soft labels in an attack that takes class indices only."""
    soft = scheme.attack_labels == "soft" or "mix" in scheme.needs
    if soft and not getattr(attack, "takes_soft_labels", True):
        raise BadValueError(
            f"the training attack {attack!r} takes class indices only, but the scheme's attack "
            "sees soft labels: use pgd with loss=ce"
        )


def warn_of_another_radius(attack: Any, config: Config) -> None:
    """An attack from Python that has an eps of its own."""
    eps = getattr(attack, "eps", None)
    if eps is not None and eps != config.radius:
        warnings.warn(
            f"the attack's eps is {eps}, and the run's {config.radius}: training uses the "
            "first, validation the second",
            RobustLabelsWarning,
            stacklevel=2,
        )


def warn_of_idle_attack(attack: str, trainer: str) -> None:
    """An attack that somebody named, beside a trainer that makes no adversarial inputs."""
    warnings.warn(
        f"attack {attack!r} is not used: the trainer {trainer} makes no adversarial inputs",
        RobustLabelsWarning,
        stacklevel=2,
    )


def warn_of_idle_perturbation(config: Config) -> None:
    """A warm-up as long as training: the run would be one without weight perturbation."""
    awp = config.awp
    if awp is not None and awp.warmup_epochs >= config.epochs:
        warnings.warn(
            f"awp never begins: its warmup_epochs are {awp.warmup_epochs:g}, and epochs "
            f"{config.epochs}",
            RobustLabelsWarning,
            stacklevel=2,
        )


def check_outputs(model: nn.Module, data: DataSet, scheme: Any, device: torch.device) -> None:
    """A ValueError unless the model gives the logits that the scheme needs."""
    shape = output_shape(model, data, device)
    if shape != (2, scheme.num_outputs):
        raise BadValueError(
            f"the model gives outputs of shape {shape} for 2 inputs; the scheme needs "
            f"{(2, scheme.num_outputs)} (robustlabels.adapt_model widens a linear layer)"
        )


@torch.no_grad()
def output_shape(
    model: nn.Module,
    data: DataSet,
    device: torch.device,
    what: str = "the model",
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[int, ...]:
    """The shape of a module's outputs for two grey images."""
    grey = torch.full((2, *data.input_shape), 0.5, device=device)
    with held_still(model):
        try:
            found = model(grey.contiguous(memory_format=memory_format))
        except BadValueError as error:
            raise BadValueError(f"{what} doesn't fit {data.name!r}: {error}") from error
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise BadValueError(
                f"{what} does not take inputs of shape {data.input_shape} of {data.name!r}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error
    if not isinstance(found, Tensor):
        raise BadValueError(f"{what} must return a tensor of logits, not {type(found).__name__}")
    return tuple(found.shape)
