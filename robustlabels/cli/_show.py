"""Printing: tables, JSON and progress bars."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_UNWRAPPED = 100_000


def console(*, stderr: bool = False) -> Console:
    """A rich console; into a pipe it never wraps at 80 columns."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else _UNWRAPPED, highlight=False)


def print_json(value: Any) -> None:
    """JSON on stdout."""
    print(json.dumps(value, indent=2, allow_nan=False))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None
) -> None:
    """A table; columns whose values are all numbers or percentages are right-aligned."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    cells = [[escape(str(cell)) for cell in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        numeric = bool(cells) and all(_is_numeric(row[i]) for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    out = console()
    if title is not None:  # not the table's own, which would wrap at the table's width
        out.print(title, style="italic", markup=False)
    out.print(table)


def percent(share: float | None) -> str:
    """A share in [0, 1] as a percentage, "-" where there is none."""
    return "-" if share is None else f"{share:.1%}"


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress bars with an ETA, on stderr; silent where that is no terminal."""
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=False,
    )
    if bars.disable:  # never started, because rich before 15 ends a disabled display with a newline
        yield bars
        return

    with bars:
        yield bars


def _is_numeric(cell: str) -> bool:
    text = cell.strip().rstrip("%s").strip()
    return text in ("-", "") or text.replace(".", "", 1).lstrip("+-").isdigit()
