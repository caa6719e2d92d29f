"""The folder, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch

from robustlabels.errors import BadValueError, RunError
from robustlabels.leaderboard.submission.forms import (
    autoattack_log,
    model_info,
    new_model_form,
    readme,
)
from robustlabels.leaderboard.submission.parts import Submission
from robustlabels.runs import save_weights, write_json, write_text


def check_free(out: str | Path) -> Path:
    """The folder can be made: it isn't there, and its parent can be written to.

    Raises:
        RuntimeError: it can't.
    """
    path = Path(out)
    if os.path.lexists(path):
        raise RunError(f"{path} is there already: name another folder")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise RunError(f"there is no folder {path.absolute().parent} to write {path.name} into")
    return path


def write(submission: Submission, out: str | Path) -> Path:
    """Write the folder. Nothing is linted here: :func:`lint` does that.

    Args:
        submission: all its parts.
        out: the folder, which must not be there; its parent must.

    Returns:
        The folder's path.

    Raises:
        ValueError: a part is missing, or the id is not in RobustBench's form.
        RuntimeError: the folder is there already, or can't be written.
    """
    path = check_free(out)
    figures, exported, x_adv = submission.figures, submission.exported, submission.adversarial
    if figures is None or exported is None or x_adv is None:
        raise BadValueError(
            "a submission needs AutoAttack's figures, the exported model and adversarial images"
        )
    if not submission.paper.well_named:
        raise BadValueError(f"id must be like Doe2026Labels, not {submission.paper.id!r}")
    if submission.judged.run is None:
        raise BadValueError("a submission needs run.json: leave evaluation.json in its RUN folder")
    evaluation, name = submission.judged.evaluation, submission.paper.id
    board = Path(evaluation.dataset) / evaluation.norm
    try:
        place = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    try:
        for folder in ("model_info", "models"):
            (place / folder / board).mkdir(parents=True)
        write_json(place / "model_info" / board / f"{name}.json", model_info(submission, figures))
        torch.save(dict(exported.checkpoint), place / "models" / board / f"{name}.pt")
        facts = {"robustbench_id": name, "architecture": submission.architecture}
        save_weights(place / "weights.safetensors", exported.model.state_dict(), facts)
        # A copy, for a view would be saved with all that it is a view of.
        torch.save(x_adv.detach().cpu().clone(), place / "adversarial.pt")
        if exported.code:
            (place / "architectures").mkdir()
            write_text(place / "architectures" / exported.code_file, exported.code)
        write_text(place / "model_zoo_entry.py", exported.entry)
        write_text(place / "new-model.md", new_model_form(submission, figures))
        write_text(place / "autoattack.log", autoattack_log(submission, figures, x_adv))
        write_text(place / "README.md", readme(submission, figures))
        write_json(place / "evaluation.json", dict(submission.facts))
        write_json(place / "run.json", submission.judged.run)
        place.chmod(0o755)
        check_free(path)  # rename would replace an empty folder
        place.rename(path)
    except RunError:
        raise
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError on a full disk
        raise RunError(f"cannot write {path}: {error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)  # where it has not been renamed
    return path
