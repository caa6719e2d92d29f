"""``robustlabels demo``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from robustlabels.cli import _show


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; new or empty.")] = Path(
        "robustlabels-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of everything random.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train five small models on the embedded digits, attack them, compare them (< 2 minutes)."""
    from robustlabels.demo import CONTENDERS, run_demo
    from robustlabels.runs import new_folder, write_json

    new_folder(out)
    started = time.perf_counter()
    with _show.progress_bars() as bars:
        tasks = {c.name: bars.add_task(c.name, total=1.0, note="waiting") for c in CONTENDERS}

        def progress(name: str, done: float, text: str) -> None:
            bars.update(tasks[name], completed=done, note=text)

        results = run_demo(out, seed, progress)

    from robustlabels.report import write_report

    write_json(out / "results.json", results)
    write_report(results, out)
    if as_json:
        _show.print_json(results)
        return
    rows = [
        (
            row["labels"],
            row["trainer"],
            _show.percent(row["clean_accuracy"]),
            _show.percent(row["robust_accuracy"]["pgd"]),
            _show.percent(row["robust_accuracy"]["autoattack"]),
            f"{row['ece']:.3f}",
            f"{row['seconds']:.1f}",
            row["audit"]["verdict"],
        )
        for row in results["rows"]
    ]
    title = f"{results['dataset']}, Linf eps {results['eps']}, {results['n']} test images"
    columns = ("labels", "trainer", "clean", "PGD-10", "AutoAttack", "ECE", "training s", "audit")
    _show.print_table(columns, rows, title)
    for note in results["notes"]:
        print(note)
    print(f"{time.perf_counter() - started:.0f} s; open {out / 'report.html'}")
