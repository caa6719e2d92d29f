"""``robustlabels temperature``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustlabels.cli import _show

PLOT = "temperature.png"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("temperature")(temperature)


def temperature(
    teacher: Annotated[Path, typer.Argument(help="RUN folder of the natural teacher.")],
    out: Annotated[Path, typer.Option(help="Folder for search.json and temperature.png.")],
    epochs: Annotated[
        int | None, typer.Option(help="Of each training; a quarter of the teacher's by default.")
    ] = None,
    trials: Annotated[int, typer.Option(help="LTD trainings of step 2.")] = 12,
    threshold: Annotated[
        float | None,
        typer.Option(help="Natural accuracy that bounds T; by default 5 points below T = 1's."),
    ] = None,
    temperatures: Annotated[
        str | None, typer.Option(help="Of step 1, rising from 1: 1,2,5,10. The paper's by default.")
    ] = None,
    objective: Annotated[str, typer.Option(help="Of step 2: loss or robust_accuracy.")] = "loss",
    eps: Annotated[str | None, typer.Option(help="Radius of step 2; 8/255 is exact.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field of step 2: trainer.beta=5, awp=0.005"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in --out.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The results as JSON.")] = False,
) -> None:
    """Search LTD's temperature for a teacher: T_max by substitutes, then the loss in [1, T_max]."""
    from robustlabels.config import set_field
    from robustlabels.errors import BadValueError
    from robustlabels.report.temperature import temperature_figure
    from robustlabels.runs import RunFolder, atomic_file
    from robustlabels.training.temperature import (
        STUDENT,
        TEMPERATURES,
        TemperatureSearch,
        search_temperature,
    )

    student: dict[str, Any] = {name: dict(table) for name, table in STUDENT.items()}
    if eps is not None:
        student["eps"] = eps
    for setting in settings or []:
        set_field(student, setting)
    grid = TEMPERATURES
    if temperatures is not None:
        try:
            grid = tuple(float(t) for t in temperatures.split(","))
        except ValueError:
            raise BadValueError(f"--temperatures takes 1,2,5, not {temperatures!r}") from None
    search = TemperatureSearch(
        teacher=teacher,
        epochs=max(1, RunFolder.open(teacher).config.epochs // 4) if epochs is None else epochs,
        student=student,
        trials=trials,
        threshold=threshold,
        temperatures=grid,
        objective=objective,
    )
    with _show.progress_bars() as bars:
        task = bars.add_task("", total=None, note="")

        def progress(what: str, done: int, total: int) -> None:
            if done <= 1:
                bars.reset(task)
                if bars.disable:
                    print(what, flush=True)
            bars.update(task, description=what, completed=done, total=total)

        found = search_temperature(
            search, out, resume=resume, progress=None if as_json else progress
        )
    with atomic_file(out / PLOT) as file:
        file.write(temperature_figure(found))
    if as_json:
        _show.print_json(found)
        return
    _report(found, out)


def _report(found: dict[str, Any], out: Path) -> None:
    rows = [(f"{s['temperature']:g}", _show.percent(s["accuracy"])) for s in found["substitutes"]]
    end = "refused" if found["bounded"] else "none refused"
    floor = _show.percent(found["accepted_above"])
    _show.print_table(
        ("T", "natural"), rows, f"substitutes: T_max = {found['upper']:g} ({end}, below {floor})"
    )
    best = found["best"]
    trials = [
        (
            f"{t['temperature']:.2f}",
            f"{t['loss']:.4f}",
            f"{t['label_entropy']:.4f}",
            _show.percent(t["accuracy"]),
            _show.percent(t["robust_accuracy"]),
            "best" if t == best else "",
        )
        for t in sorted(found["trials"], key=lambda t: float(t["temperature"]))
    ]
    columns = ("T", "loss", "labels' entropy", "natural", "PGD-10", "")
    _show.print_table(columns, trials, "LTD trainings, on held-out images")
    print(f"best by {found['objective']}: T = {best['temperature']:.2f}")
    print(f"wrote {out / 'search.json'}, {out / PLOT}")
    print(
        f"next: robustlabels train --labels ltd --set labels.temperature={best['temperature']:.2f} "
        f"--teacher {found['teacher']} --trainer trades --set trainer.inner=ce"
    )
