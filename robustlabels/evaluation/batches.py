"""Work on rows, batch by batch: each batch done once, by one process, and kept on disk.

Batches are the unit of everything: random numbers are drawn anew for each, a killed evaluation
goes on with the first that is missing, and several processes share them out. So none of these
changes a verdict.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from robustlabels import processes
from robustlabels.evaluation.auto_state import Found, VerdictState


def in_batches(
    name: str,
    rows: Tensor,
    size: int,
    work: Callable[[int, Tensor], Found],
    state: VerdictState | None = None,
    report: Callable[[int, Found], None] | None = None,
) -> list[Found]:
    """What ``work`` finds on each batch of rows, in order.

    Args:
        name: of this work, in the state.
        rows: int64 (N,).
        size: rows of a batch.
        work: called with a batch's number and rows.
        state: keeps what is found.
        report: called after each batch of this process with the number of its rows and the find.
    """
    rank, count = processes.place()
    mine: dict[int, Found] = {}
    for number, batch in enumerate(rows.split(size) if len(rows) else ()):
        if number % count != rank:
            continue
        found = None if state is None else state.load(name, number)
        if found is None:
            found = work(number, batch)
            if state is not None:
                state.save(name, number, found)
        mine[number] = found
        if report is not None:
            report(len(batch), found)
    everything = {n: found for part in processes.gather(mine) for n, found in part.items()}
    return [everything[number] for number in sorted(everything)]
