"""Whose fault an error is: a third party's plugin must not look like a fault of ours.

Nothing is wrapped, so a training step costs what it did: the answer is in the traceback.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

from robustlabels.errors import UserError
from robustlabels.plugins.registry import PluginRecord


class PluginError(UserError, RuntimeError):
    """A third party's factory raised what it should not; ``__cause__`` is what it raised."""


def provenance(error: BaseException, plugins: list[PluginRecord]) -> str | None:
    """Where in a third party's code an error arose, "line 12 of acme.py (acme-labels 1.0)".

    Args:
        error: it, or what it was raised from, passed through the plugin's code.
        plugins: those that were loaded.

    Returns:
        The innermost such place, or None.
    """
    for each in _with_causes(error):
        for frame, line in reversed(list(traceback.walk_tb(each.__traceback__))):
            owner = _owner(frame.f_globals.get("__name__"), plugins)
            if owner is not None:
                file = Path(frame.f_code.co_filename).name
                return f"line {line} of {file} ({owner.distribution} {owner.version})"
    return None


def suspects(plugins: list[PluginRecord]) -> str | None:
    """The third parties' things that were made in this process, or None."""
    used = [
        f"{thing} of {p.distribution} {p.version}"
        for p in plugins
        if not p.builtin
        for thing in p.used
    ]
    return ", ".join(used) or None


def shown(error: BaseException) -> str:
    """An error in one line, "KeyError: 'x'"."""
    try:
        message = " ".join(str(error).split()) or "no message"
    except Exception:  # a plugin's own error class may be broken as well
        message = "its message cannot be shown"
    return f"{type(error).__name__}: {message}"


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__


def _owner(module: object, plugins: list[PluginRecord]) -> PluginRecord | None:
    """The third party that a module belongs to: of those in its top-level package, the nearest."""
    if not isinstance(module, str):
        return None
    parts = module.split(".")

    def shared(plugin: PluginRecord) -> int:
        theirs = plugin.module.split(".")
        pairs = zip(parts, theirs, strict=False)
        return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(parts), len(theirs)))

    near = [p for p in plugins if not p.builtin and shared(p)]
    return max(near, key=shared, default=None)
