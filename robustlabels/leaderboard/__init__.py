"""RobustBench's published entries at one date, and where a model would stand among them.

    from robustlabels.leaderboard import compare, entries

    entries("cifar10", "Linf", architecture="wrn-34-10")[0].robust
    compare("runs/mine/evaluation.json").fair

It needs neither torch nor a network: the facts are packed in the wheel.
"""

from __future__ import annotations

from robustlabels.leaderboard.boards import Board, board, entries
from robustlabels.leaderboard.checkout import Finding, refresh
from robustlabels.leaderboard.comparing import Comparison, Standing, compare
from robustlabels.leaderboard.fairness import Reason
from robustlabels.leaderboard.snapshot import Entry, Snapshot, read_snapshot

__all__ = [
    "Board",
    "Comparison",
    "Entry",
    "Finding",
    "Reason",
    "Snapshot",
    "Standing",
    "board",
    "compare",
    "entries",
    "read_snapshot",
    "refresh",
]
