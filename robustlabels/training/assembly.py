"""From a config, and objects given from Python, to an engine that is ready to run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels import processes
from robustlabels.attacks import Attack, as_attack
from robustlabels.config import Config, Named
from robustlabels.data import DataSet, Split, hold_out
from robustlabels.data.extra import ExtraData
from robustlabels.data.user import with_validation
from robustlabels.devices import named_device
from robustlabels.errors import BadValueError, RobustLabelsWarning, RunError
from robustlabels.factories import (
    check_trainer,
    make_attack,
    make_dataset,
    make_model,
    make_scheme,
    make_trainer,
)
from robustlabels.labels import complete
from robustlabels.models import adapt_model
from robustlabels.models.dropping import set_dropout
from robustlabels.models.normalize import normalized
from robustlabels.models.zoo import is_zoo_name
from robustlabels.plugins import default_params
from robustlabels.randomness import derived_seed, seed_everything
from robustlabels.training.averaging import learnt_from, make_averages, with_averaging
from robustlabels.training.checks import (
    check_attack,
    check_labels,
    check_outputs,
    check_trainable,
    output_shape,
    warn_of_another_radius,
    warn_of_idle_attack,
    warn_of_idle_perturbation,
)
from robustlabels.training.engine import Engine
from robustlabels.training.extra import batch_sizes, prepare_extra
from robustlabels.training.extra import resolved as extra_settings
from robustlabels.training.facts import run_facts
from robustlabels.training.initial import start_from
from robustlabels.training.layout import with_layout
from robustlabels.training.optimizers import resolve_optimizer
from robustlabels.training.randaugment import check_augmentable
from robustlabels.training.teachers import Teacher, Teachers, load_teacher
from robustlabels.training.trainer import Run, uses_attack


@dataclass
class Given:
    """Objects from Python that stand in for names of the config.

    The last eight have no name: the caller's optimizer instead of the config's; a scheduler of it
    (or functions that make them, see ``resolve_optimizer``),
    stepped after each epoch; the reduction of the cross-entropy; and int64 indices of the training
    split that are held out, instead of ``validation`` drawn ones; the pseudo-labels of extra data
    that the run has made already; whether it has a state to go on from, so that no starting
    weights are read; the name of the given model's last layer; and the caller's validation set.
    """

    model: nn.Module | None = None
    data: DataSet | None = None
    scheme: Any = None
    trainer: Any = None
    attack: Attack | None = None
    init: Teacher | None = None
    teacher: Teacher | None = None
    extra: ExtraData | None = None
    extra_teacher: Teacher | None = None
    names: list[str] = field(default_factory=list)
    optimizer: Any = None
    scheduler: Any = None
    reduction: str = "mean"
    held_out: Tensor | None = None
    pseudo_labels: Tensor | None = None
    resumed: bool = False
    layer: str | None = None
    validation: Any = None


@dataclass(frozen=True)
class Assembly:
    """An engine, and what else the caller should know.

    Attributes:
        engine: ready to run.
        config: resolved and complete.
        test: the test split, or None.
        facts: what run.json says of the data, the model and the machine.
    """

    engine: Engine
    config: Config
    test: Split | None
    facts: dict[str, Any]


def assemble(config: Config, given: Given, num_classes: int | None = None) -> Assembly:
    """Make everything that a config names, check that it fits together, and resolve the config.

    Args:
        config: as the user wrote it.
        given: objects from Python.
        num_classes: K as the caller believes it, or None.

    Raises:
        ValueError, KeyError: something is unknown, impossible or doesn't fit.
    """
    device = named_device(config.device)
    data, chosen = _data(config, given, num_classes)
    split = data.train_split()
    if given.trainer is None:
        trainer = make_trainer(config.trainer.name, **config.trainer.params)
    else:
        trainer = check_trainer(given.trainer, config.trainer.name)
    classes = data.num_classes + int(getattr(trainer, "extra_outputs", 0))
    scheme = _scheme(config, given, data, classes)
    learnt = learnt_from(scheme, trainer)
    config = extra_settings(with_averaging(config, learnt))
    attack, config = _attack(config, given, trainer, scheme)
    config = _with_defaults(_with_normalization(config, data), given)

    def new_model(outputs: int, named: Named = config.model) -> nn.Module:
        return make_model(named.name, outputs, data.input_shape, **named.params)

    model = _model(config, given, new_model, scheme, data, device)
    if config.augment.randaugment is not None:
        check_augmentable(data.input_shape[0])
    init_sha256 = _started(model, config, given, data)
    processes.copy_first(model)  # one from Python may have been drawn in each process anew
    config = with_layout(config, model, data, trainer, attack, device)

    def checkpoints_model(outputs: int) -> nn.Module:
        if config.teacher_model is None and given.model is not None:
            raise BadValueError(
                "a checkpoint as teacher needs its architecture's name, teacher_model; or give the "
                "teacher as a module"
            )
        return new_model(outputs, config.teacher_model or config.model)

    def loaded_teacher(named: Teacher) -> nn.Module:
        loaded = load_teacher(named, data.num_classes, checkpoints_model).to(device)
        output_shape(loaded, data, device, "the teacher")
        if config.channels_last:  # as the images that it will be shown
            loaded.to(memory_format=torch.channels_last)
        return loaded

    teachers = Teachers(
        loaded_teacher,
        config.teacher if given.teacher is None else given.teacher,
        config.extra_teacher if given.extra_teacher is None else given.extra_teacher,
    )
    _check_teacher_model(config)
    frozen = teachers.get(config.labels.name) if scheme.teacher == "frozen" else None
    if frozen is not None and classes > data.num_classes:
        raise BadValueError(
            f"{config.labels.name} labels with {config.trainer.name}: a frozen teacher knows the "
            f"data's {data.num_classes} classes, and says nothing of the "
            f"{classes - data.num_classes} that the trainer adds: use another scheme"
        )
    indices, held_out = _hold_out(len(split), config, chosen)
    optimizer = config.optimizer.model_copy(update={"lr": config.optimizer.learning_rate})
    config = config.model_copy(update={"optimizer": optimizer, "validation": len(held_out)})
    beside = bool(getattr(trainer, "takes_extra", False))
    warn_of_idle_perturbation(config)
    check_trainable(model, batch_sizes(config)[0] if beside else sum(batch_sizes(config)), config)
    extra = prepare_extra(
        config,
        given.extra,
        given.pseudo_labels,
        data,
        held_out=held_out,
        mixed=not beside,
        teacher=teachers.get_labeller,
        device=device,
    )
    judged = [] if config.averaging is None else [config.averaging]
    averages = make_averages(model, [*judged, *learnt.values()])
    run = Run(
        model,
        scheme,
        data.num_classes,
        device,
        config,
        teacher=lambda: teachers.get(config.trainer.name),
        extra_data=None if extra is None else extra.data,
        average=averages[learnt["trainer"]].model if "trainer" in learnt else None,
    )
    trainer.setup(run)
    if config.teacher is not None and not teachers.asked:
        _warn_of_idle_teacher(config, given)
    given_optimizer, scheduler = resolve_optimizer(
        model, given.optimizer, given.scheduler, config.optimizer
    )
    engine = Engine(
        model=model,
        scheme=scheme,
        trainer=trainer,
        attack=attack,
        split=split,
        train_indices=indices,
        validation_indices=held_out,
        config=config,
        num_classes=data.num_classes,
        device=device,
        teacher=frozen,
        averages=averages,
        given_optimizer=given_optimizer,
        scheduler=scheduler,
        reduction=given.reduction,
        extra=extra,
    )
    facts = run_facts(engine, data, classes, given.names, learnt)
    return Assembly(engine, config, data.test, {**facts, "init_sha256": init_sha256})


def _started(model: nn.Module, config: Config, given: Given, data: DataSet) -> str | None:
    """Put starting weights into the model, where there are any; their checksum."""
    start = config.init if given.init is None else given.init
    if start is None or given.resumed:
        return None
    return start_from(model, start, data.num_classes)


def _model(
    config: Config,
    given: Given,
    new_model: Callable[[int], nn.Module],
    scheme: Any,
    data: DataSet,
    device: torch.device,
) -> nn.Module:
    """The model, on the device, with the outputs that the scheme needs."""
    seed_everything(derived_seed(config.seed, "weights"))
    if given.model is None:
        if given.layer is not None:
            raise BadValueError("layer is for a model given from Python; named models need none")
        model = new_model(scheme.num_outputs)
    else:
        model = given.model.to(device)
        # A model that already has the outputs needs no linear layer to widen.
        if output_shape(model, data, device) != (2, scheme.num_outputs):
            model = adapt_model(model, scheme, given.layer)
        if config.normalize:
            params = config.model.params
            model = normalized(model, data.input_shape[0], params["mean"], params["std"])
    model = model.to(device)
    set_dropout(model, config.dropout, scheme.num_outputs)
    check_outputs(model, data, scheme, device)
    return model


def _check_teacher_model(config: Config) -> None:
    named = [teacher for teacher in (config.teacher, config.extra_teacher) if teacher is not None]
    if config.teacher_model is not None and not any(Path(teacher).is_file() for teacher in named):
        raise BadValueError(
            "teacher_model is the architecture of a checkpoint file, and no teacher is such a file"
        )


def _warn_of_idle_teacher(config: Config, given: Given) -> None:
    """A teacher that nobody asked for: harmless, unless it is a misspelt scheme's."""
    known = given.teacher is not None or is_zoo_name(config.teacher)
    if not known and not Path(str(config.teacher)).exists():
        raise RunError(f"no teacher at {config.teacher}")
    warnings.warn(
        f"teacher {config.teacher!r} is not used: {config.labels.name} labels with "
        f"{config.trainer.name} have no frozen teacher",
        RobustLabelsWarning,
        stacklevel=2,
    )


def _data(config: Config, given: Given, num_classes: int | None) -> tuple[DataSet, Tensor | None]:
    """The data set, and the indices of held-out training samples where the caller chose them."""
    data = given.data or make_dataset(config.dataset, config.data_root, **config.data)
    if num_classes not in (None, data.num_classes):
        raise BadValueError(
            f"data set {data.name!r} has {data.num_classes} classes, not num_classes={num_classes}"
        )
    check_labels(data.train_split(), data)
    if given.validation is None:
        return data, given.held_out
    return with_validation(data, given.validation)


def _scheme(config: Config, given: Given, data: DataSet, classes: int) -> Any:
    if given.scheme is None:
        return make_scheme(config.labels.name, classes, **config.labels.params)
    scheme = complete(given.scheme, config.labels.name)
    if scheme.num_classes != classes:
        raise BadValueError(
            f"the scheme has {scheme.num_classes} classes; {data.name!r} with this trainer "
            f"has {classes}"
        )
    return scheme


def _attack(config: Config, given: Given, trainer: Any, scheme: Any) -> tuple[Attack, Config]:
    """The training attack, and the config with it; without, where the trainer makes none."""
    asked = config.attack
    if given.attack is None:
        attack, config = _named_attack(config, trainer)
    else:
        attack = as_attack(given.attack)
    if not uses_attack(trainer):
        if asked is not None:
            warn_of_idle_attack(asked.name, config.trainer.name)
        return attack, config.model_copy(update={"attack": None})
    check_attack(scheme, attack)
    if given.attack is not None:
        warn_of_another_radius(attack, config)
    return attack, config


def _named_attack(config: Config, trainer: Any) -> tuple[Attack, Config]:
    named = config.attack or Named(name="pgd")
    defaults: dict[str, Any] = {}
    if named.name == "pgd" and hasattr(trainer, "attack_defaults"):
        defaults = trainer.attack_defaults(config.radius)
    params = {**defaults, **named.params}
    attack = make_attack(named.name, config.radius, config.norm, **params)
    return attack, config.model_copy(update={"attack": Named(name=named.name, **params)})


def _with_defaults(config: Config, given: Given) -> Config:
    """Write out the parameters that were left to their defaults, so that the config is complete."""
    tables = (
        ("schemes", "labels", given.scheme),
        ("trainers", "trainer", given.trainer),
        ("models", "model", given.model),
        ("models", "teacher_model", None),
        ("attacks", "attack", given.attack),
    )
    resolved: dict[str, Named] = {}
    for kind, field_name, instead in tables:
        named: Named | None = getattr(config, field_name)
        if instead is None and named is not None:
            params = {**default_params(kind, named.name), **named.params}
            resolved[field_name] = Named(name=named.name, **params)
    return config.model_copy(update=resolved)


def _with_normalization(config: Config, data: DataSet) -> Config:
    if not config.normalize:
        return config
    params = dict(config.model.params)
    if not data.mean and not {"mean", "std"} <= set(params):
        raise BadValueError(
            f"normalize: {data.name!r} has no known mean and std; put a layer "
            "robustlabels.models.Normalize(mean, std) in front of the model instead"
        )
    params = {"mean": list(data.mean), "std": list(data.std), **params}
    return config.model_copy(update={"model": Named(name=config.model.name, **params)})


def _hold_out(n: int, config: Config, chosen: Tensor | None) -> tuple[Tensor, Tensor]:
    """Training and validation indices; the validation part never includes the test set."""
    if chosen is not None:
        train = torch.ones(n, dtype=torch.bool)
        train[chosen] = False
        return train.nonzero().flatten(), chosen
    wanted = config.validation
    if wanted is None:
        count = min(1000, n // 10)
    else:
        count = int(wanted * n) if isinstance(wanted, float) else wanted
    if n - count < 2:
        raise BadValueError(
            f"validation {wanted!r} leaves {max(n - count, 0)} of {n} samples to train on"
        )
    return hold_out(n, count, config.seed)
