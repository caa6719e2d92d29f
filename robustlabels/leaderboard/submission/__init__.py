"""A submission to RobustBench: lints, and the folder to submit.

    from robustlabels.leaderboard.submission import Declaration, Paper, Submission, lint, write

    submission = Submission(evaluation, Paper(...), Declaration(...), model=..., ...)
    if not any(finding.fails for finding in lint(submission)):
        write(submission, "submission")

``robustlabels submit`` gathers the parts of a run, and lints always. Importing this package loads
torch; :mod:`robustlabels.leaderboard` does not.
"""

from __future__ import annotations

from robustlabels.leaderboard.submission.lints import lint
from robustlabels.leaderboard.submission.parts import (
    Declaration,
    Exported,
    Figures,
    Finding,
    Paper,
    Submission,
)
from robustlabels.leaderboard.submission.writing import write

__all__ = [
    "Declaration",
    "Exported",
    "Figures",
    "Finding",
    "Paper",
    "Submission",
    "lint",
    "write",
]
