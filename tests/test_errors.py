"""The errors that users see."""

from __future__ import annotations

import pickle

import pytest

from robustlabels import errors
from robustlabels.errors import UnknownNameError, UserError, missing_extra, nearest


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.BadValueError, ValueError),
        (errors.UnknownNameError, KeyError),
        (errors.MissingExtraError, ImportError),
        (errors.DataError, ValueError),
        (errors.RunError, RuntimeError),
        (errors.TrainingError, RuntimeError),
    ],
)
def test_callers_can_catch_the_builtin(ours: type[Exception], builtin: type[Exception]) -> None:
    """The contract promises ValueError and KeyError; the CLI catches UserError; and data-loader
    workers pickle whatever they raise."""
    error = ours("alpha must be in [0, 1], not 2")
    assert isinstance(error, builtin)
    assert isinstance(error, UserError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ours
    assert str(copy) == str(error) == "alpha must be in [0, 1], not 2"


def test_unknown_names_read_like_a_sentence() -> None:
    """KeyError's own str() shows the repr: quotes around the message, escaped ones inside."""
    assert str(UnknownNameError("unknown model 'x'; did you mean 'y'?")).startswith("unknown model")
    assert str(UnknownNameError()) == ""


def test_nearest() -> None:
    """Near names where there are any, all names where there are none."""
    assert nearest("trads", ["trades", "mart"]) == "did you mean 'trades'?"
    assert nearest("zzz", ["trades", "mart"]) == "known: mart, trades"
    assert nearest("zzz", []) == "known: none"
    assert "'vgg16' or 'vgg19'" in nearest("vgg", ["vgg19", "vgg16", "lenet"]).replace(
        "'vgg19' or 'vgg16'", "'vgg16' or 'vgg19'"
    )


def test_missing_extra_has_the_command() -> None:
    """The user wants to paste, not to look it up."""
    message = str(missing_extra("torchattacks:PGD", "torchattacks"))
    assert "torchattacks:PGD" in message
    assert "pip install 'robustlabels[torchattacks]'" in message


def test_a_name_in_another_case_suggests_the_right_one() -> None:
    """``PGD`` looks more like ``FGSM`` to a comparison of letters than like ``pgd``."""
    assert nearest("ADR", ["adr", "ADX", "als"]) == "did you mean 'adr'?"
