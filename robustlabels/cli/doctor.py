"""``robustlabels doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from robustlabels.cli import _show


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this environment: versions, devices, extras, ecosystem defects, plugins."""
    from robustlabels.doctor import examine

    found = examine()
    if as_json:
        _show.print_json(found)
        return
    _show.print_table(("package", "version"), found["versions"].items(), "Versions")
    tested = found["tested"]
    if tested["untested"]:
        print("Tested versions: no, " + "; ".join(tested["untested"]) + "\n")
    else:
        print(f"Tested versions: yes ({tested['combination']})\n")
    _show.print_table(
        ("device", "detail"), [(d["device"], d["detail"]) for d in found["devices"]], "Devices"
    )
    _show.print_table(
        ("extra", "state", "to install"),
        [(e["extra"], e["state"], e["command"]) for e in found["extras"]],
        "Extras",
    )
    _show.print_table(
        ("package", "defect", "what robustlabels does"),
        [(d["package"], d["symptom"], d["remedy"]) for d in found["defects"]],
        "Ecosystem defects that concern this environment",
    )
    problems = found["plugin_errors"]
    for problem in problems:
        print(f"plugin {problem['plugin']} of {problem['distribution']}: {problem['error']}")
    print("Plugins: " + (f"{len(problems)} with errors" if problems else "all load"))
