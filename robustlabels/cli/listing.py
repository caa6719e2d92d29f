"""``robustlabels list KIND``."""

from __future__ import annotations

from typing import Annotated

import typer

from robustlabels.cli import _show
from robustlabels.errors import UnknownNameError, nearest
from robustlabels.hookspecs import HOOKS

RECIPES = "recipes"
KINDS = [*HOOKS, RECIPES]


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("list")(list_names)


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(help=f"Kind to list: {', '.join(KINDS)}. All kinds by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the available names, and the distribution or paper that each comes from."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(f"cannot list {kind!r}; {nearest(kind, KINDS)}")

    tables = {each: _rows(each) for each in (KINDS if kind is None else [kind])}
    if as_json:
        entries = {
            each: [{"name": name, _origin(each): origin} for name, origin in rows]
            for each, rows in tables.items()
        }
        _show.print_json(entries if kind is None else entries[kind])
        return

    for each, rows in tables.items():
        title = each if kind is None else None
        _show.print_table(("name", _origin(each)), rows, title)


def _origin(kind: str) -> str:
    """Return the heading of the second column."""
    return "source" if kind == RECIPES else "distribution"


def _rows(kind: str) -> list[tuple[str, str]]:
    """Return each name of a kind, and where it comes from."""
    if kind == RECIPES:
        from robustlabels.recipes import recipe_names, recipe_source

        return [(name, recipe_source(name)) for name in recipe_names()]

    from robustlabels.plugins import host

    registry = host()[kind]
    return [(name, registry.distribution(name)) for name in registry.names()]
