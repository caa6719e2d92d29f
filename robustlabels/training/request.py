"""What a caller of ``fit`` asks for: names become a config, objects stand in for names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import DataLoader

from robustlabels.config import Config, make_config
from robustlabels.data import as_dataset
from robustlabels.data.extra import as_extra
from robustlabels.data.user import is_triple
from robustlabels.errors import BadValueError, RobustLabelsWarning
from robustlabels.loading import OPAQUE
from robustlabels.training.assembly import Given
from robustlabels.training.teachers import Teacher


def read_request(
    model: str | nn.Module | Mapping[str, Any],
    data: Any,
    scheme: Any,
    trainer: Any,
    attack: Any,
    teacher: Teacher | None,
    num_classes: int | None,
    **options: Any,
) -> tuple[Config, Given]:
    """The config and the objects of a call of :func:`robustlabels.fit`; its arguments.

    Raises:
        ValueError: a field of the config is unknown or has an impossible value.
    """
    for option, instead in (("labels", "scheme"), ("dataset", "data")):
        if option in options:
            raise BadValueError(f"fit has no {option}=: give it as {instead}=")
    given = Given(layer=options.pop("layer", None))
    init, extra, extra_teacher = (options.pop(k, None) for k in ("init", "extra", "extra_teacher"))
    _take_optimizer(options, given)
    data = _take_validation(data, options, given)
    values: dict[str, Any] = {k: _plain(v) for k, v in options.items()}
    values["model"] = _named(model, nn.Module, given, "model")
    values["labels"] = _named(scheme, None, given, "scheme")
    values["trainer"] = _named(trainer, None, given, "trainer")
    values["attack"] = None if attack is None else _named(attack, None, given, "attack")
    if isinstance(data, Mapping):
        table = dict(_plain(data))
        if not isinstance(table.get("name"), str):
            raise BadValueError("data as a table needs a name, e.g. {'name': 'folder:PATH'}")
        values["dataset"], values["data"] = table.pop("name"), table
    elif isinstance(data, str):
        values["dataset"] = data
    else:
        _use_batch_size(data, values)
        given.data = as_dataset(data, num_classes)
        given.names.append("data")
        values["dataset"] = f"{OPAQUE}{type(data).__name__}"
    if isinstance(extra, str | Mapping) or extra is None:
        values["extra"] = _plain(extra)
    else:
        given.extra = as_extra(extra)
        given.names.append("extra")
        values["extra"] = f"{OPAQUE}{type(extra).__name__}"
    named = {"init": init, "teacher": teacher, "extra_teacher": extra_teacher}
    for slot, model_or_path in named.items():
        if isinstance(model_or_path, nn.Module):
            setattr(given, slot, model_or_path)
            given.names.append(slot)
            values[slot] = f"{OPAQUE}{type(model_or_path).__name__}"
        elif model_or_path is not None:
            values[slot] = str(model_or_path)
    return make_config(values), given


def _take_optimizer(options: dict[str, Any], given: Given) -> None:
    """Move the caller's own optimizer and scheduler from the options to the objects."""
    if not isinstance(options.get("optimizer", {}), Mapping):
        given.optimizer = options.pop("optimizer")
        given.names.append("optimizer")
    given.scheduler = options.pop("scheduler", None)
    if given.scheduler is not None:
        given.names.append("scheduler")
    if options.get("schedule") is not None and (given.optimizer or given.scheduler):
        raise BadValueError(
            "schedule is for the config's own optimizer: give one of your own a scheduler="
        )


def _take_validation(data: Any, options: dict[str, Any], given: Given) -> Any:
    """Move a validation set from the data or the options to the objects; return the other data."""
    validation = options.get("validation")
    plain = validation is None or isinstance(validation, int | float | str | np.generic)
    if not plain:
        given.validation = options.pop("validation")
    if is_triple(data):
        if validation is not None:
            raise BadValueError("the validation set is given twice: in data, and as validation=")
        data, given.validation = (data[0], data[2]), data[1]
    if given.validation is not None:
        given.names.append("validation")
    return data


def _use_batch_size(data: Any, values: dict[str, Any]) -> None:
    """Take the batch size of the training data's loader, or warn that it is not used."""
    source = data[0] if isinstance(data, tuple | list) and data else data
    size = source.batch_size if isinstance(source, DataLoader) else None
    if size is None:
        return
    if size > 1:
        used = values.setdefault("batch_size", size)
    else:  # DataLoader's default, on which batch norm cannot train
        used = values.get("batch_size", Config.model_fields["batch_size"].default)
    if used != size:
        warnings.warn(
            f"the training loader's batch_size {size} is not used: batch_size is {used}; give "
            "another one as batch_size=",
            RobustLabelsWarning,
            stacklevel=4,
        )


def _plain(value: Any) -> Any:
    """A parameter as TOML will give it back: no tuples, no numpy scalars."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _named(thing: Any, kind: type | None, given: Given, slot: str) -> dict[str, Any]:
    """The config's table for a name, a table or an object."""
    if isinstance(thing, str):
        return {"name": thing}
    if isinstance(thing, Mapping):
        return dict(_plain(thing))
    if kind is not None and not isinstance(thing, kind):
        raise BadValueError(f"{slot} must be a name, a table or a {kind.__name__}, not {thing!r}")
    setattr(given, slot, thing)
    given.names.append(slot)
    return {"name": f"{OPAQUE}{type(thing).__name__}"}
