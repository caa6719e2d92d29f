"""The command line: one command a file; each parses, calls and prints.

``main`` is the one place that turns errors into exit codes: 0 on success, 2 with one line on
bad input or a plugin's fault, and a traceback only for our own faults, or with ``--debug``.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from robustlabels import __version__, processes
from robustlabels.cli import (
    audit,
    compare,
    demo,
    doctor,
    evaluate,
    leaderboard,
    listing,
    new_plugin,
    plugins,
    reproduce,
    submit,
    teach,
    temperature,
    train,
)
from robustlabels.errors import RobustLabelsWarning, UserError

INTERRUPTED = 130
HELP_COLUMNS = 160
SHARED = ("train", "teach", "temperature", "evaluate")
"""These see to torchrun's processes themselves; of all else, the first does the whole work."""

app = typer.Typer(
    name="robustlabels",
    help="Label schemes for adversarial robustness: any scheme, trainer, attack, model and data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo, train, teach, temperature, evaluate, audit,
    compare, reproduce, leaderboard, submit, listing, plugins, new_plugin, doctor,
):  # fmt: skip
    command.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"robustlabels {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    del version, debug  # --debug is read by main(), wherever it stands
    if context.invoked_subcommand not in SHARED and processes.left_to_first():
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", str(HELP_COLUMNS))  # rich's help, else 80 columns
    given = [a for a in given if a != "--debug"]
    warnings.formatwarning = _one_line_warning
    try:
        code = typer.main.get_command(app).main(
            given, prog_name="robustlabels", standalone_mode=False
        )
        sys.stdout.flush()  # here, where a reader that has left is no traceback
    except UserError as error:
        if debug:
            raise
        where = _in_plugin(error)
        _fail(f"{error} ({where})" if where else str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        _reader_left()
    except SystemExit as error:  # rich and typer make it of a broken pipe
        if isinstance(error.__context__, BrokenPipeError):
            _reader_left()
        if not debug:
            _blame_plugin(error)
        raise
    except Exception as error:
        code = _ended_by(error, debug)
    if code == INTERRUPTED:  # typer returns it where it has caught the interrupt itself
        print("robustlabels: interrupted", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> str:
    ours = issubclass(category, RobustLabelsWarning)
    return f"{'robustlabels' if ours else category.__name__}: {message}\n"


def _ended_by(error: Exception, debug: bool) -> int:
    """The exit code after Ctrl-C or a usage error; any other error is ours, and raised again."""
    if _interrupted(error) and not debug:
        return INTERRUPTED
    # typer's usage errors; from which click they come differs between its versions.
    if hasattr(error, "format_message"):
        message = error.format_message()
        if not message:  # no command: the help is printed already
            return 2
        if not debug:
            _fail(message)
    if not debug:
        _blame_plugin(error)
    raise error


def _in_plugin(error: BaseException) -> str | None:
    """The place in a third party's code that an error came through, or None."""
    from robustlabels.plugins import loaded, provenance

    return provenance(error, loaded())


def _blame_plugin(error: BaseException) -> None:
    """End with one line if a third party's plugin raised an error, or may have caused it."""
    from robustlabels.plugins import loaded, shown, suspects

    where = _in_plugin(error)
    if where:
        _fail(f"a plugin failed: {shown(error)} ({where}; --debug shows the traceback)")
    others = suspects(loaded())
    if others and isinstance(error, Exception):
        _fail(f"{shown(error)} (perhaps the fault of {others}; --debug shows the traceback)")


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error is what a library made of Ctrl-C, as torch.save does while it writes."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _reader_left() -> NoReturn:
    """The reader of our output (head, less) has left: not an error of ours."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)


def _fail(message: str) -> NoReturn:
    print(f"robustlabels: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
