"""Names and modules of others, replaced for a while."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def substituted(owner: Any, **values: Any) -> Iterator[None]:
    """Give a module's or a class's attributes other values; they come back at the end."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@contextmanager
def stand_ins(makers: Mapping[str, Callable[[], Mapping[str, ModuleType]]]) -> Iterator[None]:
    """Modules that can be imported within, although they are not installed.

    Args:
        makers: a module's name -> a function that makes it and its submodules, by full name. It is
            called only where the real module is missing.
    """
    added: dict[str, ModuleType] = {}
    for name, make in makers.items():
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            added |= make()
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            sys.modules.pop(name, None)
