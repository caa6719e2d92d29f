"""The papers' settings as configs that run: ``train --config recipe:NAME``.

Each is a TOML file beside this one. The comment at its head names the paper, what its code does
otherwise, and what is ours. All were written from the papers and the authors' code; none has been
run to its end here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from robustlabels.config import read_toml
from robustlabels.errors import UnknownNameError, nearest

PREFIX = "recipe:"
_HERE = Path(__file__).parent


def recipe_names() -> list[str]:
    """Sorted names."""
    return sorted(path.stem for path in _HERE.glob("*.toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """A recipe's config, as a dict.

    Raises:
        KeyError: with the nearest matches.
    """
    return tomllib.loads(_text(name))


def recipe_source(name: str) -> str:
    """What the recipe is of: the comment at its head, in one line.

    Raises:
        KeyError: with the nearest matches.
    """
    lines = []
    for line in _text(name).splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def read_config(source: str | Path) -> dict[str, Any]:
    """``recipe:NAME``, or a TOML file.

    Raises:
        KeyError, ValueError: no such recipe, or a file that can't be read.
    """
    text = str(source)
    return read_recipe(text[len(PREFIX) :]) if text.startswith(PREFIX) else read_toml(Path(text))


def _text(name: str) -> str:
    if name not in recipe_names():
        raise UnknownNameError(f"unknown recipe {name!r}; {nearest(name, recipe_names())}")
    return (_HERE / f"{name}.toml").read_text(encoding="utf-8")
