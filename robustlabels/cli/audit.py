"""``robustlabels audit RUN``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from robustlabels.cli import _show


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("audit")(audit)


def audit(
    run: Annotated[Path, typer.Argument(help="RUN folder.")],
    n: Annotated[int | None, typer.Option(help="Test images; 200 by default.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius; the run's by default.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf or L2; the run's by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="File; RUN/audit.json by default.")] = None,
    weights: Annotated[str, typer.Option(help="best, last or average.")] = "best",
    seed: Annotated[
        int, typer.Option(help="Of the choice of images and the attacks.", min=0, max=2**63 - 1)
    ] = 0,
    data_root: Annotated[str | None, typer.Option(help="Folder of the data, if moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Is a run's robustness real, or are its gradients masked?"""
    from robustlabels import runs
    from robustlabels.cli._evaluation_files import EvaluationFiles

    runs.RunFolder.open(run)
    path = out if out is not None else run / "audit.json"
    EvaluationFiles(path).refuse_others(resume=False)

    from robustlabels.evaluation.auditing import audit_run

    with _show.progress_bars() as bars:
        task = bars.add_task("auditing", total=1.0, note="")

        def progress(done: float, text: str) -> None:
            bars.update(task, completed=done, note=text)

        result = audit_run(
            run,
            n=n,
            eps=eps,
            norm=norm,
            seed=seed,
            weights=weights,
            data_root=data_root,
            device=device,
            progress=progress,
        )
    runs.write_json(path, result)
    if as_json:
        _show.print_json(result)
        return
    _print(run, result)
    print(f"written: {path}")


def _print(run: Path, result: dict[str, Any]) -> None:
    threat = f"{result['norm']} eps {result['eps']:.4g}"
    title = f"{run}: {result['n']} test images of {result['dataset']}, {threat}"
    rows = [
        (
            check["name"],
            "pass" if check["passed"] else "FAIL",
            _measured(check["measured"]),
            check["threshold"],
        )
        for check in result["checks"]
    ]
    _show.print_table(("check", "", "measured", "passes"), rows, title)
    for check in result["checks"]:
        if not check["passed"]:
            print(f"{check['name']}: {check['why']} ({check['source']})")
    if result["note"]:
        print(result["note"])
    print(result["verdict"])


def _measured(measured: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(name, value)}" for name, value in measured.items())


def _value(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(value) or "none"
    if value is None or not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.2g}" if name == "p" else f"{value:.1%}"
