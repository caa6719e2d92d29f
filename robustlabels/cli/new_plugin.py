"""``robustlabels new-plugin NAME``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("new-plugin")(new_plugin)


def new_plugin(
    name: Annotated[str, typer.Argument(help="Of the distribution, e.g. my-labels.")],
    out: Annotated[Path | None, typer.Option(help="Folder, new or empty; NAME by default.")] = None,
) -> None:
    """Write a plugin to start from: a label scheme, a trainer and their tests."""
    from robustlabels.plugin_template import write_plugin

    made = write_plugin(name, out)
    print(
        f"written: {made['folder']}, with the label scheme {made['scheme']!r} and the trainer "
        f"{made['trainer']!r} in {made['module']}.py\n"
        "next:\n"
        f"  cd {shlex.quote(made['folder'])}\n"
        "  python -m pip install -e '.[test]'\n"
        "  python -m pytest\n"
        f"  robustlabels train --labels {made['scheme']} --trainer {made['trainer']} "
        "--model mlp --epochs 3"
    )
