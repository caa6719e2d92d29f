"""``robustlabels plugins``."""

from __future__ import annotations

from typing import Annotated

import typer

from robustlabels.cli import _show


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("plugins")(list_plugins)


def list_plugins(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the plugins found: distribution, version, hooks, names and errors."""
    from robustlabels.plugins import host

    records = host().records
    if as_json:
        _show.print_json(
            [
                {
                    "name": r.name,
                    "distribution": r.distribution,
                    "version": r.version,
                    "builtin": r.builtin,
                    "hooks": list(r.hooks),
                    "names": r.names,
                    "status": _status(r.skipped, r.errors),
                    "errors": r.errors,
                }
                for r in records
            ]
        )
        return
    rows = [
        (
            r.distribution,
            r.version,
            r.name,
            ", ".join(r.hooks) or "-",
            ", ".join(n for names in r.names.values() for n in names) or "-",
            "; ".join(r.errors) or "ok",
        )
        for r in records
    ]
    _show.print_table(("distribution", "version", "plugin", "hooks", "brings", "status"), rows)


def _status(skipped: bool, errors: list[str]) -> str:
    return "skipped" if skipped else ("error" if errors else "ok")
