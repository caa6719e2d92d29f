"""``robustlabels leaderboard``."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustlabels.cli import _show

if TYPE_CHECKING:
    from robustlabels.leaderboard import Board, Comparison, Entry, Snapshot, Standing

command = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the command, and ``leaderboard refresh`` below it."""
    app.add_typer(command, name="leaderboard")


@command.callback()
def leaderboard(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(help="cifar10, cifar100 or imagenet; the evaluation's, or cifar10."),
    ] = None,
    threat: Annotated[
        str | None, typer.Option(help="Linf, L2 or corruptions; the evaluation's, or Linf.")
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Only this one; with --compare, the model's.")
    ] = None,
    no_extra_data: Annotated[
        bool, typer.Option("--no-extra-data", help="None with extra or synthetic data.")
    ] = False,
    top: Annotated[int | None, typer.Option(help="So many entries at most.", min=1)] = None,
    compare: Annotated[
        Path | None, typer.Option(help="An evaluation.json: where would the model stand?")
    ] = None,
    snapshot: Annotated[
        Path | None, typer.Option(help="A file of `leaderboard refresh`; the packed one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show RobustBench's published entries, or where a model would stand among them."""
    from robustlabels.errors import BadValueError
    from robustlabels.leaderboard import board as find_board
    from robustlabels.leaderboard import compare as put_beside
    from robustlabels.leaderboard import entries, read_snapshot

    if context.invoked_subcommand is not None:
        if any(context.params.values()):
            raise BadValueError(
                "options before refresh mean nothing to it: robustlabels leaderboard refresh --help"
            )
        return
    facts = read_snapshot(snapshot)
    if compare is not None:
        if top is not None or no_extra_data:
            raise BadValueError("--top and --no-extra-data don't go with --compare")
        found = put_beside(
            compare, dataset=dataset, threat=threat, architecture=architecture, snapshot=facts
        )
        if as_json:
            _show.print_json(_comparison_json(found, facts))
        else:
            _print_comparison(found, facts, str(compare))
        return
    dataset = "cifar10" if dataset is None else dataset
    threat = "Linf" if threat is None else threat
    board = find_board(dataset, threat, facts)
    shown = entries(
        dataset,
        threat,
        architecture=architecture,
        extra_data=not no_extra_data,
        snapshot=facts,
    )[:top]
    if as_json:
        ranked = [{"rank": board.rank(e.robust), **_entry_json(e)} for e in shown]
        _show.print_json({**_board_json(board, facts), "entries": ranked})
    else:
        _print_board(board, shown, facts)


@command.command()
def refresh(
    checkout: Annotated[Path, typer.Argument(help="A RobustBench checkout.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("robustbench.json"),
    date: Annotated[
        str | None, typer.Option(help="Of the snapshot; the newest commit's day by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new snapshot from a RobustBench checkout; tell what is missing or odd in it."""
    from robustlabels.errors import RunError
    from robustlabels.leaderboard import refresh as read_checkout
    from robustlabels.runs import write_text

    if os.path.lexists(out) and not overwrite:
        raise RunError(
            f"{out} is there already; --out FILE writes another, --overwrite replaces it"
        )
    facts, findings = read_checkout(checkout, date)
    write_text(out, facts.text())
    if as_json:
        _show.print_json(
            {
                "written": str(out),
                "date": facts.date.isoformat(),
                "entries": len(facts.entries),
                "findings": [dataclasses.asdict(finding) for finding in findings],
            }
        )
        return
    rows = [(f.file, f"LEFT OUT: {f.what}" if f.left_out else f.what) for f in findings]
    if rows:
        _show.print_table(("file", "missing or odd"), rows)
    boards = len({(e.dataset, e.threat) for e in facts.entries})
    left_out = sum(finding.left_out for finding in findings)
    print(
        f"written: {out}, {len(facts.entries)} entries of {boards} leaderboards, "
        f"{left_out} left out, of {facts.date}"
    )


def _percent(share: float | None) -> str:
    """With the two decimals that are published."""
    return "" if share is None else f"{share:.2%}"


def _print_board(board: Board, shown: list[Entry], facts: Snapshot) -> None:
    rows = [_cells(entry, board) for entry in shown]
    # Tables are wide: a column that says nothing of those shown is left out.
    columns = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    eps = f", eps {board.eps}" if board.eps else ""
    title = f"RobustBench {board.name}{eps}: {len(shown)} of {len(board.entries)} entries"
    _show.print_table(
        columns, [[row[c] for c in columns] for row in rows], f"{title}, {facts.date}"
    )


def _cells(entry: Entry, board: Board) -> dict[str, str]:
    figures = {"AutoAttack": entry.autoattack, "best known": entry.robust}
    if entry.autoattack is None:
        figures = {
            "corruptions": entry.corruptions,
            "mCE": entry.mce,
            "3DCC": entry.corruptions_3d,
            "3DCC mCE": entry.mce_3d,
        }
    return {
        "rank": str(board.rank(entry.robust)),
        "model": entry.id,
        "clean": _percent(entry.clean),
        **{name: _percent(figure) for name, figure in figures.items()},
        "data": entry.data,
        "architecture": entry.architecture,
        "flags": ", ".join(entry.flags),
    }


def _print_comparison(found: Comparison, facts: Snapshot, name: str) -> None:
    rows = [row for standing in found.standings for row in _rows(standing, found, name)]
    title = f"{name} beside RobustBench {found.board.name}, {facts.date}"
    columns = ("among", "rank", "model", "robust", "clean", "data", "architecture")
    _show.print_table(columns, rows, title)
    print(f"robust accuracy: {_percent(found.robust)}, {found.figure}")
    for note in found.notes:
        print(f"note: {note}")
    if found.fair:
        print("a fair comparison, as far as the evaluation tells")
    else:
        print("NOT A FAIR COMPARISON:")
    for reason in found.reasons:
        print(f"  {reason.rule}: {reason.value}; {reason.remedy}")


def _rows(standing: Standing, found: Comparison, name: str) -> list[tuple[str, ...]]:
    def published(entry: Entry) -> tuple[str, ...]:
        figures = (_percent(entry.robust), _percent(entry.clean))
        return (standing.among, "", entry.id, *figures, entry.data, entry.architecture)

    rank = f"{standing.rank} of {standing.published + 1}"
    mine = (name, _percent(found.robust), _percent(found.clean), "", found.architecture or "")
    return [
        *map(published, standing.above),
        (standing.among, rank, *mine),
        *map(published, (*standing.level, *standing.below)),
    ]


def _board_json(board: Board, facts: Snapshot) -> dict[str, Any]:
    return {
        "source": facts.source,
        "date": facts.date.isoformat(),
        "dataset": board.dataset,
        "threat": board.threat,
        "eps": board.eps,
    }


def _entry_json(entry: Entry) -> dict[str, Any]:
    return {**dataclasses.asdict(entry), "robust": entry.robust}


def _comparison_json(found: Comparison, facts: Snapshot) -> dict[str, Any]:
    return {
        **_board_json(found.board, facts),
        "robust": found.robust,
        "figure": found.figure,
        "clean": found.clean,
        "architecture": found.architecture,
        "standings": [_standing_json(standing) for standing in found.standings],
        "fair": found.fair,
        "reasons": [dataclasses.asdict(reason) for reason in found.reasons],
        "notes": list(found.notes),
    }


def _standing_json(standing: Standing) -> dict[str, Any]:
    neighbours = {
        side: [_entry_json(entry) for entry in getattr(standing, side)]
        for side in ("above", "level", "below")
    }
    return {
        "among": standing.among,
        "rank": standing.rank,
        "published": standing.published,
        **neighbours,
    }
