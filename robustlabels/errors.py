"""The errors that users see: one line each, what is wrong, what is allowed, what to do.

Every class also derives from the builtin that the API contract promises (``ValueError``,
``KeyError``, ...), so that callers need not know this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend. The command line prints it as one line and exits with 2."""


class BadValueError(UserError, ValueError):
    """An argument has an impossible value; the message names it, the value and what is allowed."""


class UnknownNameError(UserError, KeyError):
    """A name that nothing is registered under; the message lists the nearest matches."""

    def __str__(self) -> str:  # KeyError would show the repr of the message, quotes and all
        return str(self.args[0]) if self.args else ""


class MissingExtraError(UserError, ImportError):
    """A name that needs an optional dependency; the message holds the pip command."""


class DataError(UserError, ValueError):
    """A data set is missing on disk, corrupt, or doesn't fit what it was declared to be."""


class RunError(UserError, RuntimeError):
    """A run folder or checkpoint is missing, foreign, corrupt or in the way."""


class TrainingError(UserError, RuntimeError):
    """Training diverged; the message says where, and which checkpoint was kept."""


class RobustLabelsWarning(UserWarning):
    """What a user should know but need not act on at once."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the nearest matches of ``name``, or with all known names."""
    known = sorted(known)
    same = [each for each in known if each.lower() == name.lower()]
    close = same or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(known) or 'none'}"


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """The error for ``what`` when the optional dependency behind ``extra`` is not installed."""
    return MissingExtraError(
        f"{what} needs an optional dependency: run  pip install 'robustlabels[{extra}]'"
    )
