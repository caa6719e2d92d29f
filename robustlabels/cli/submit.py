"""``robustlabels submit EVALUATION.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustlabels.cli import _show


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("submit")(submit)


def submit(
    evaluation: Annotated[Path, typer.Argument(help="An evaluation.json, in its RUN folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must not be there.")],
    name: Annotated[
        str, typer.Option("--id", help="RobustBench's: author, year, first word of the title.")
    ] = "",
    title: Annotated[str, typer.Option(help="Of the paper.")] = "",
    authors: Annotated[str, typer.Option(help="With commas.")] = "",
    link: Annotated[str, typer.Option(help="URL of the paper.")] = "",
    venue: Annotated[str, typer.Option(help="'ICML 2026', 'arXiv, May 2026'.")] = "",
    extra_data: Annotated[
        bool | None,
        typer.Option("--extra-data/--no-extra-data", help="Images from elsewhere; no default."),
    ] = None,
    synthetic: Annotated[
        str | None, typer.Option(help="Generated images: 1M, or none; no default.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="MIT, or the URL of your own; no default.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="As it is to be published.")] = "",
    footnote: Annotated[str, typer.Option(help="What else a reader should know.")] = "",
    audit_note: Annotated[
        str, typer.Option(help="Why it is submitted without a passed audit.")
    ] = "",
    checkpoint_url: Annotated[str, typer.Option(help="Of the checkpoint and the code.")] = "",
    code: Annotated[
        str | None,
        typer.Option(help="FILE.py:Class, an architecture that RobustBench lacks; it is run."),
    ] = None,
    adversarial: Annotated[
        Path | None,
        typer.Option(help="AutoAttack's images; those beside the evaluation by default."),
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder of the data, if moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Lint a model as RobustBench's rules have it, and write the folder to submit.

    Nothing is written if anything fails.
    """
    from robustlabels.runs import read_json

    read_json(evaluation)  # refuse a misspelt one before torch is loaded
    from robustlabels.cli._gathering import gather
    from robustlabels.leaderboard.submission import Declaration, Paper, lint, write
    from robustlabels.leaderboard.submission.writing import check_free

    check_free(out)
    submission = gather(
        evaluation,
        Paper(id=name, title=title, authors=authors, link=link, venue=venue),
        Declaration(
            extra_data=extra_data,
            synthetic=synthetic,
            licence=licence,
            architecture=architecture,
            footnote=footnote,
            audit_note=audit_note,
            checkpoint_url=checkpoint_url,
        ),
        code=code,
        adversarial=adversarial,
        data_root=data_root,
        device=device,
    )
    with _show.progress_bars() as bars:
        task = bars.add_task("judging once more", total=1.0, note="")

        def progress(done: float, text: str) -> None:
            bars.update(task, completed=done, note=text)

        findings = lint(submission, progress)
    failures = [finding for finding in findings if finding.fails]
    if not failures:
        write(submission, out)
    _tell(findings, None if failures else out, as_json)
    if failures:
        raise typer.Exit(2)


def _tell(findings: list[Any], out: Path | None, as_json: bool) -> None:
    if as_json:
        listed = [vars(finding) for finding in findings]
        _show.print_json({"written": None if out is None else str(out), "findings": listed})
        return
    for finding in sorted(findings, key=lambda f: not f.fails):
        print(f"{'FAILS' if finding.fails else 'warning'}: {' '.join(str(finding).split())}")
    failures = sum(finding.fails for finding in findings)
    warnings = f", {len(findings) - failures} to look at"
    if out is None:
        print(f"not written: {failures} lints fail{warnings}")
    else:
        print(f"written: {out}{warnings}; {out / 'README.md'} tells what to do next")
