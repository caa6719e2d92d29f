"""From a name and parameters to a thing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from robustlabels.errors import BadValueError, UserError, nearest
from robustlabels.hookspecs import Factory
from robustlabels.plugins.blame import PluginError, shown
from robustlabels.plugins.discovery import host


def build(kind: str, name: str, params: Mapping[str, Any], **given: Any) -> Any:
    """Call the factory of ``name`` with ``given`` (by us) and ``params`` (by the user).

    Raises:
        UnknownNameError: no such name.
        BadValueError: a parameter that the factory doesn't know, or a value that it refuses.
        PluginError: a third party's factory raised anything else.
    """
    registry = host()[kind]
    factory, plugin = registry.factory(name), registry.owner(name)
    what = f"{registry.noun} {name!r}"
    check_params(what, factory, params, given)
    if what not in plugin.used:
        plugin.used.append(what)
    try:
        return factory(**given, **params)
    except UserError:
        raise
    except ValueError as error:
        raise BadValueError(f"{name}: {shown(error).partition(': ')[2]}") from error
    except (Exception, SystemExit) as error:
        if plugin.builtin:
            raise
        who = f"{plugin.distribution} {plugin.version}"
        raise PluginError(f"{what} of {who} cannot be made: {shown(error)}") from error


def default_params(kind: str, name: str) -> dict[str, Any]:
    """The defaults of a named thing's parameters, those that TOML can hold (None it can't)."""
    try:
        parameters = inspect.signature(host()[kind].factory(name)).parameters.values()
    except (
        TypeError,
        ValueError,
    ):  # builtins without a signature keep their defaults to themselves
        return {}
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    # What we hand over ourselves is no parameter of the user's.
    return {
        k: list(v) if isinstance(v, tuple) else v
        for k, v in defaults.items()
        if k not in ("eps", "norm") and isinstance(v, bool | int | float | str | tuple)
    }


def check_params(
    what: str, factory: Factory, params: Mapping[str, Any], given: Mapping[str, Any]
) -> None:
    """Refuse parameters that ``factory`` doesn't take, with the nearest that it does."""
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # builtins without a signature check their own arguments
        return
    kinds = inspect.Parameter
    named = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    if any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values()):
        return
    for param in params:
        if param in given or param not in named:
            own = [n for n in named if n not in given]
            raise BadValueError(f"{what} has no parameter {param!r}; {nearest(param, own)}")
    missing = [
        p.name
        for p in signature.parameters.values()
        if p.name in named and p.default is kinds.empty and p.name not in {**params, **given}
    ]
    if missing:
        raise BadValueError(f"{what} needs the parameter {missing[0]!r}")
