"""Progress bars and short HTML tables, in a terminal and in a notebook."""

from __future__ import annotations

import html
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from robustlabels import processes
from robustlabels.errors import BadValueError

Update = Callable[[float, str], None]


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """Show a progress bar while the body runs, and yield ``update(fraction, note)``.

    In a notebook the bar is one output that changes. In a terminal it is a rich bar on stderr,
    which prints its final state only where stderr is no terminal.
    """
    if _in_notebook():
        yield _notebook_bar(title)
        return

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        Remaining(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True, highlight=False)) as bars:
        task = bars.add_task(title, total=1.0, note="")
        yield lambda fraction, note: bars.update(task, completed=fraction, note=note)


@contextmanager
def shown(progress: bool | Callable[..., None] | None, title: str) -> Iterator[Any]:
    """Yield the callback for a ``progress`` argument: a bar's for True, None for False.

    Of several processes only the first one shows a bar.

    Args:
        progress: True, False, None or a callback ``(fraction, text)``.
        title: Text in front of the bar.

    Raises:
        ValueError: ``progress`` is something else.
    """
    check_progress(progress)
    if progress is True and not processes.is_first():
        yield None
    elif progress is True:
        with progress_bar(title) as update:
            yield update
    else:
        yield progress or None


def check_progress(progress: object) -> None:
    """Raise ValueError if a ``progress`` argument is neither a bool nor None nor callable."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise BadValueError(
            f"progress must be True for a progress bar, or a callback, not {progress!r}"
        )


def html_table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return an HTML table of names and values under a title, for ``_repr_html_``."""
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<b>{html.escape(title)}</b><table>{cells}</table>"


def text_table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return the same as indented lines, for ``__repr__``."""
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def _in_notebook() -> bool:
    """Return whether the code runs in a Jupyter kernel, such as a notebook's or Colab's."""
    if "IPython" not in sys.modules:
        return False
    shell = importlib.import_module("IPython").get_ipython()
    return getattr(shell, "kernel", None) is not None


def _notebook_bar(title: str) -> Update:
    """Display a bar that needs no widgets, which not every notebook has."""
    ipython = importlib.import_module("IPython.display")

    def bar(fraction: float, note: str) -> Any:
        text = html.escape(f"{fraction:.0%} {note}")
        return ipython.HTML(
            f"{html.escape(title)} <progress value='{fraction:.4f}'></progress> {text}"
        )

    handle = ipython.display(bar(0.0, ""), display_id=True)
    last = ""

    def update(fraction: float, note: str) -> None:
        nonlocal last
        new = f"{fraction:.0%} {note}"
        if new != last:  # a message for each step would flood the browser
            handle.update(bar(fraction, note))
            last = new

    return update
