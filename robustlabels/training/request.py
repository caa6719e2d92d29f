"""What a caller of ``fit`` asks for: names become a config, objects stand in for names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from robustlabels.config import Config, make_config
from robustlabels.data import as_dataset
from robustlabels.errors import BadValueError
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
    values: dict[str, Any] = {k: _plain(v) for k, v in options.items()}
    given = Given()
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
        given.data = as_dataset(data, num_classes)
        given.names.append("data")
        values["dataset"] = f"{OPAQUE}{type(data).__name__}"
    if isinstance(teacher, nn.Module):
        given.teacher = teacher
        given.names.append("teacher")
        values["teacher"] = f"{OPAQUE}{type(teacher).__name__}"
    elif teacher is not None:
        values["teacher"] = str(teacher)
    return make_config(values), given


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
