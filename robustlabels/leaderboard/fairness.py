"""Why a figure can't be put beside a leaderboard's, and what to do about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from robustlabels.leaderboard.boards import Board
from robustlabels.leaderboard.evaluated import TOLERANCE, Evaluation, Judged

# The images and the classes that RobustBench's leaderboards judge on; ImageNet's images are the
# list that its package carries.
_JUDGED_ON = {"cifar10": (10_000, 10), "cifar100": (10_000, 100), "imagenet": (5_000, 1_000)}


@dataclass(frozen=True)
class Reason:
    """One thing that makes a comparison unfair.

    Attributes:
        rule: "data", "images", "norm", "eps", "attack", "checkpoint" or "audit".
        value: what was found, beside what the leaderboard has.
        remedy: what to do.
    """

    rule: str
    value: str
    remedy: str


def unfair(judged: Judged, board: Board) -> list[Reason]:
    """All that makes the comparison unfair; nothing where it is fair."""
    evaluation = judged.evaluation
    return [
        *_data(evaluation, board),
        *_images(judged, board),
        *_threat(evaluation, board),
        *_attack(evaluation),
        *_checkpoint(judged),
        *_audit(evaluation),
    ]


def _data(evaluation: Evaluation, board: Board) -> Iterator[Reason]:
    classes = _JUDGED_ON.get(board.dataset, (None, None))[1]
    remedy = f"train and evaluate on {board.dataset} itself"
    if evaluation.dataset != board.dataset:
        yield Reason("data", f"{evaluation.dataset}, not {board.dataset}", remedy)
    elif classes not in (None, evaluation.num_classes):
        yield Reason("data", f"{evaluation.num_classes} classes, not {classes:,}", remedy)


def _images(judged: Judged, board: Board) -> Iterator[Reason]:
    evaluation = judged.evaluation
    images = _JUDGED_ON.get(board.dataset, (None, None))[0]
    if images is None:
        return
    remedy = f"evaluate all of them, without --n: {_again(evaluation)}"
    if board.dataset == "imagenet":
        remedy = 'evaluate the images of RobustBench\'s list: [data] subset = "robustbench"'
    if evaluation.n != images:
        yield Reason("images", f"{evaluation.n:,}, not {images:,}", remedy)
    elif evaluation.indices != list(range(images)):
        yield Reason("images", f"{images:,} drawn from a larger set", remedy)
    elif board.dataset == "imagenet" and judged.data.get("subset") != "robustbench":
        # An evaluation names no files; only the data set of that name is sure to be the list.
        yield Reason("images", f"not known to be RobustBench's {images:,} images", remedy)


def _threat(evaluation: Evaluation, board: Board) -> Iterator[Reason]:
    radius = board.radius
    again = _again(evaluation, f"--norm {board.threat} --eps {board.eps}")
    if evaluation.norm != board.threat:
        yield Reason("norm", f"{evaluation.norm}, not {board.threat}", again)
    elif radius is not None and abs(evaluation.eps - radius) > TOLERANCE:
        value = f"{eps_text(evaluation.eps, evaluation.norm)}, not {board.eps}"
        yield Reason("eps", value, again)


def _attack(evaluation: Evaluation) -> Iterator[Reason]:
    if evaluation.official is None:
        names = ", ".join(evaluation.attacks)
        yield Reason(
            "attack",
            f"{names}, not the official AutoAttack (standard) at the evaluation's eps",
            _again(evaluation, "--attacks autoattack"),
        )


def _checkpoint(judged: Judged) -> Iterator[Reason]:
    run, evaluation = judged.run, judged.evaluation
    if run is None or "validation_samples" not in run:
        yield Reason(
            "checkpoint",
            "unknown how it was chosen: no run.json beside the evaluation says it",
            "leave evaluation.json in its RUN folder, or make sure that no test image chose it",
        )
    elif evaluation.weights == "best" and run.get("weights_sha256") != evaluation.weights_sha256:
        yield Reason(
            "checkpoint",
            "not the best weights of the run beside the evaluation",
            f"evaluate the run again: {_again(evaluation)}",
        )


def _audit(evaluation: Evaluation) -> Iterator[Reason]:
    if evaluation.audit is None:
        remedy = f"see whether gradients are masked: robustlabels audit {_run(evaluation)}"
        yield Reason("audit", "not run", remedy)
    elif not evaluation.audit.consistent:
        remedy = "report the worst attack's figure; the robustness above it is not real"
        yield Reason("audit", evaluation.audit.verdict, remedy)


def _run(evaluation: Evaluation) -> str:
    return shlex.quote(evaluation.run) if evaluation.run else "RUN"


def _again(evaluation: Evaluation, options: str = "") -> str:
    """The command that measures it anew."""
    return " ".join(("robustlabels evaluate", _run(evaluation), *options.split(), "--out FILE"))


def eps_text(eps: float, norm: str) -> str:
    """A radius, for Linf in 8-bit steps too: "8/255", "0.031 (7.905/255)"."""
    steps = eps * 255
    if norm != "Linf":
        return f"{eps:.10g}"
    if abs(steps - round(steps)) <= 255 * TOLERANCE:
        return f"{round(steps)}/255"
    return f"{eps:.10g} ({steps:.9g}/255)"
