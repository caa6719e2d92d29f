"""``robustlabels list KIND``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from robustlabels.cli import _show
from robustlabels.hookspecs import HOOKS

Kind = StrEnum("Kind", {kind: kind for kind in HOOKS})


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("list")(list_names)


def list_names(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what is there, and which distribution brought it."""
    from robustlabels.plugins import host

    registry = host()[kind.value]
    rows = [(name, registry.distribution(name)) for name in registry.names()]
    if as_json:
        _show.print_json([{"name": name, "distribution": dist} for name, dist in rows])
    else:
        _show.print_table(("name", "distribution"), rows)
