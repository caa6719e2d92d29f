"""``robustlabels reproduce [TABLE]``."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustlabels.cli import _show

if TYPE_CHECKING:
    from robustlabels.tables import Row, Table
    from robustlabels.tables.reproduction import Beside, Figure


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("reproduce")(reproduce)


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="Its name; without one, all are listed.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option(help="Folder with a RUN for each row; runs/TABLE by default.")
    ] = None,
    rows: Annotated[str | None, typer.Option(help="Only these, with commas.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Train and judge what is missing; goes on if killed.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field of every run: epochs=1")
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Test images; as many as the paper's by default.", min=1)
    ] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder that holds the data.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """A paper's table: published beside measured.

    --set, --n, --data-root and --device are for runs yet to be made; a run made otherwise than the
    row says is shown as "another setting", with what differs.
    """
    from robustlabels.errors import BadValueError

    if table is None:
        if measure or runs or rows or settings or n or data_root or device:
            raise BadValueError("which table? robustlabels reproduce alone lists them")
        _list_tables(as_json)
        return

    from robustlabels.tables import read_table
    from robustlabels.tables.reproduction import beside

    found = read_table(table)
    ids = None if rows is None else [row.strip() for row in rows.split(",") if row.strip()]
    picked = found.picked(ids)
    folder = Path("runs") / table if runs is None else runs
    how = _How(found, folder, tuple(settings or ()), n, data_root, device)
    for row in picked:
        how.check(row)
    if measure:
        # Training and judging print what they do; of JSON, stdout holds nothing else.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            for row in picked:
                how.measure(beside(found, row, folder))
    shown = [beside(found, row, folder) for row in picked]
    if as_json:
        _show.print_json(_json(found, shown, how))
    else:
        _print(found, shown, how)


class _How:
    """How rows are measured: as command lines, and by running these."""

    def __init__(
        self,
        table: Table,
        folder: Path,
        settings: tuple[str, ...],
        n: int | None,
        data_root: str | None,
        device: str | None,
    ) -> None:
        self.table, self.folder, self.given = table, folder, settings
        self.n = table.images if n is None else n
        self.data_root, self.device = data_root, device

    def settings(self, row: Row) -> list[str]:
        return [*self.table.settings(row), *self.given]

    def check(self, row: Row) -> None:
        """Refuse a setting that can't be made, before anything is trained."""
        from robustlabels.config import make_config, set_field
        from robustlabels.recipes import read_recipe

        values = read_recipe(row.recipe)
        for setting in self.settings(row):
            set_field(values, setting)
        make_config(values)

    def commands(self, beside: Beside) -> list[str]:
        """What is still to be run, a line each."""
        from robustlabels.tables.reproduction import NOT_JUDGED, NOT_MEASURED, UNFINISHED

        root = [] if self.data_root is None else ["--data-root", self.data_root]
        device = [] if self.device is None else ["--device", self.device]
        out, lines = str(beside.run), []
        if beside.state == NOT_MEASURED:
            source = ["--config", f"recipe:{beside.row.recipe}"]
            settings = [word for s in self.settings(beside.row) for word in ("--set", s)]
            lines.append(["train", *source, *settings, *root, *device, "--out", out])
        if beside.state == UNFINISHED:
            lines.append(["train", "--resume", "--out", out])
        if beside.state in (NOT_MEASURED, UNFINISHED, NOT_JUDGED):
            names, tables = self._attacks(beside.row)
            attacks = ["--attacks", ",".join(names)]
            attacks += [word for t in tables for word in ("--attack", t)]
            eps = ["--eps", str(self.table.eps)] if self.table.eps is not None else []
            lines.append(
                ["evaluate", out, *attacks, *eps, "--n", str(self.n), *root, *device, "--resume"]
            )
        return [shlex.join(["robustlabels", *line]) for line in lines]

    def measure(self, beside: Beside) -> None:
        """Train and judge a row, as far as that is not done."""
        from robustlabels.cli.evaluate import evaluate
        from robustlabels.cli.train import train
        from robustlabels.tables.reproduction import NOT_MEASURED, UNFINISHED

        if beside.judged:
            return
        print(f"{self.table.name}: {beside.row.label}", flush=True)
        if beside.state == NOT_MEASURED:
            train(
                config=f"recipe:{beside.row.recipe}",
                settings=self.settings(beside.row),
                data_root=self.data_root,
                device=self.device,
                out=beside.run,
            )
        elif beside.state == UNFINISHED:  # as it was begun
            train(out=beside.run, resume=True)
        names, tables = self._attacks(beside.row)
        evaluate(
            beside.run,
            attacks=",".join(names),
            attack=tables,
            n=self.n,
            eps=None if self.table.eps is None else str(self.table.eps),
            data_root=self.data_root,
            device=self.device or "auto",
            resume=True,
        )

    def _attacks(self, row: Row) -> tuple[list[str], list[str]]:
        """By name, and as TOML tables."""
        from robustlabels.config import literal

        attacks = self.table.attacks(row)
        names = [each for each in attacks if isinstance(each, str)]
        tables = [each for each in attacks if not isinstance(each, str)]
        lines = [", ".join(f"{k} = {literal(v)}" for k, v in each.items()) for each in tables]
        return names, [f"{{ {line} }}" for line in lines]


def _list_tables(as_json: bool) -> None:
    from robustlabels.tables import read_table, table_names

    tables = [read_table(name) for name in table_names()]
    if as_json:
        facts = ("name", "title", "paper", "place")
        _show.print_json(
            [{f: getattr(t, f) for f in facts} | {"rows": len(t.rows)} for t in tables]
        )
        return
    cells = [(t.name, t.title, f"{t.paper}: {t.place}", str(len(t.rows))) for t in tables]
    _show.print_table(("table", "of", "paper", "rows"), cells)


def _json(table: Table, shown: list[Beside], how: _How) -> dict[str, Any]:
    facts = ("name", "title", "paper", "place", "images", "scale", "quantity")
    return {
        **{fact: getattr(table, fact) for fact in facts},
        "notes": list(table.notes),
        "rows": [{**each.to_dict(), "commands": how.commands(each)} for each in shown],
    }


def _print(table: Table, shown: list[Beside], how: _How) -> None:
    unit = "%" if table.scale == "percent" else "share"
    print(f"{table.title}\n{table.paper}, {table.place}: {table.quantity}, {unit}")
    columns = ("row", "", "figure", "published", "here", "difference", "state")
    _show.print_table(columns, [cells for each in shown for cells in _lines(each)])
    for note in table.notes:
        print(f"note: {note}")
    for note in dict.fromkeys(note for each in shown for note in each.notes):
        noted = [each.row.id for each in shown if note in each.notes]
        print(f"{'every row' if 1 < len(noted) == len(shown) else ', '.join(noted)}: {note}")
    lines = [line for each in shown for line in how.commands(each)]
    if lines:
        print("to measure the rest, --measure, or:")
        print("\n".join(f"  {line}" for line in lines))


def _lines(beside: Beside) -> list[tuple[str, ...]]:
    """A line for each figure; what is of the whole row stands in the first."""
    first, blank = (beside.row.id, beside.row.label), ("", "")
    return [
        (*(blank if i else first), column, *_cells(figure), "" if i else beside.state)
        for i, (column, figure) in enumerate(beside.figures.items())
    ]


def _cells(figure: Figure) -> tuple[str, str, str]:
    """Published, measured with as many decimals, and the difference."""
    from robustlabels.tables import decimals

    if figure.measured is None or figure.difference is None:
        return figure.published, "-", "-"
    places = decimals(figure.published)
    return figure.published, f"{figure.measured:.{places}f}", f"{figure.difference:+.{places}f}"
