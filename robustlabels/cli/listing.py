"""``robustlabels list KIND``."""

from __future__ import annotations

from typing import Annotated

import typer

from robustlabels.cli import _show
from robustlabels.errors import UnknownNameError, nearest
from robustlabels.hookspecs import HOOKS

RECIPES = "recipes"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("list")(list_names)


def list_names(
    kind: Annotated[str, typer.Argument(help=f"What to list: {', '.join([*HOOKS, RECIPES])}.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is there, and which distribution brought it."""
    if kind == RECIPES:
        _list_recipes(as_json)
        return
    if kind not in HOOKS:
        raise UnknownNameError(f"cannot list {kind!r}; {nearest(kind, [*HOOKS, RECIPES])}")
    from robustlabels.plugins import host

    registry = host()[kind]
    rows = [(name, registry.distribution(name)) for name in registry.names()]
    if as_json:
        _show.print_json([{"name": name, "distribution": dist} for name, dist in rows])
    else:
        _show.print_table(("name", "distribution"), rows)


def _list_recipes(as_json: bool) -> None:
    from robustlabels.recipes import recipe_names, recipe_source

    rows = [(name, recipe_source(name)) for name in recipe_names()]
    if as_json:
        _show.print_json([{"name": name, "source": source} for name, source in rows])
    else:
        _show.print_table(("name", "source"), rows)
