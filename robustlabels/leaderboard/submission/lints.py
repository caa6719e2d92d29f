"""What RobustBench would send back, found before it is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator

from robustlabels._compat.robustbench_images import imagenet_images
from robustlabels.errors import MissingExtraError, UserError
from robustlabels.leaderboard.comparing import compare
from robustlabels.leaderboard.snapshot import read_snapshot
from robustlabels.leaderboard.submission.adversarial import AGAIN, adversarial_images
from robustlabels.leaderboard.submission.behaviour import behaviour
from robustlabels.leaderboard.submission.parts import (
    NONE,
    Figures,
    Finding,
    Progress,
    Submission,
)
from robustlabels.runs import sha256

_SYNTHETIC = re.compile(r"~?\d+(\.\d+)?[KMB]?")
_LINK = re.compile(r"https?://\S+")
_SAMPLE = 32
_ZOO = "robustbench:"

# What brings a part that is missing, by the field of Submission.
_REMEDIES = {
    "model": "submit an evaluation of a RUN folder, with its data: --data-root",
    "exported": "use an architecture of RobustBench's, or attach yours: --code FILE.py:Class",
    "images": "give the data that was evaluated: --data-root",
    "adversarial": AGAIN,
    "weights": "leave the weights in their RUN folder",
    "audit": "move it away, and audit these: robustlabels audit RUN",
}
_RULES = {"exported": "architecture", "images": "data"}


def lint(submission: Submission, progress: Progress | None = None) -> list[Finding]:
    """Everything that keeps a submission back, and everything to look at; all of it at once.

    docs/submission.md tells what each rule means.

    Args:
        submission: its parts; one that is None is not looked at, and fails if ``missing`` has it.
        progress: called as ``progress(share, text)`` while the images are judged.

    Raises:
        RuntimeError: there is no such evaluation.
    """
    figures = submission.figures
    found = [*_comparable(submission), *_declared(submission), *_weights(submission)]
    if figures is not None:
        found += _figures(submission, figures)
    for name, why in submission.missing.items():
        remedy = _REMEDIES.get(name, "")
        found.append(Finding(_RULES.get(name, name), why, remedy))
    broken = _behaviour(submission)
    found += broken
    if figures is not None and not any(f.rule in ("model", "logits") for f in broken):
        found += adversarial_images(submission, figures, progress)
    return found


def _comparable(submission: Submission) -> Iterator[Finding]:
    """What ``leaderboard --compare`` finds unfair: data, images, eps, attack, checkpoint, audit."""
    evaluation = submission.judged.evaluation
    try:
        reasons = compare(submission.evaluation).reasons
    except UserError as error:
        remedy = "RobustBench has boards of cifar10 (Linf, L2), cifar100 and imagenet (Linf)"
        yield Finding("data", str(error), remedy)
        return
    for reason in reasons:
        note = submission.declared.audit_note
        if reason.rule == "images" and evaluation.dataset == "imagenet" and submission.files:
            continue  # the list itself is looked at
        fails = not (reason.rule == "audit" and note)
        remedy = reason.remedy
        if reason.rule == "audit":
            remedy += f"; noted: {note}" if note else "; or say why not: --audit-note TEXT"
        yield Finding(reason.rule, reason.value, remedy, fails)
    if not submission.verified:
        remedy = "train and evaluate with the data set's verify left on"
        yield Finding("data", "its files were not compared with the published MD5 sums", remedy)
    if evaluation.dataset == "imagenet" and submission.files is not None:
        yield from _imagenet_files(set(submission.files), len(submission.files))


def _imagenet_files(files: set[str], number: int) -> Iterator[Finding]:
    wanted = imagenet_list()
    if wanted is None:
        remedy = "run  pip install 'robustlabels[robustbench]'"
        yield Finding("images", "RobustBench's list is not installed", remedy)
    elif files != wanted or number != len(wanted):
        value = f"{len(files & wanted):,} of RobustBench's {len(wanted):,}"
        value += f", and {len(files - wanted):,} others" if files - wanted else ""
        yield Finding("images", value, "evaluate the validation images of its list, and only those")


def imagenet_list() -> set[str] | None:
    """RobustBench's ImageNet images, "SYNSET/NAME.JPEG"; None where it is not installed."""
    try:
        return set(imagenet_images())
    except MissingExtraError:
        return None


def _figures(submission: Submission, figures: Figures) -> Iterator[Finding]:
    evaluation = submission.judged.evaluation
    attack = evaluation.attacks[figures.name]
    again = "evaluate again: robustlabels evaluate RUN --attacks autoattack --out FILE"
    verdicts = submission.facts.get("verdicts", {}).get(figures.name, ())
    if len(verdicts) != evaluation.n:
        value = f"{len(verdicts):,} verdicts for {evaluation.n:,} images"
        yield Finding("figure", value, again)
    elif round(attack.robust_accuracy * evaluation.n) != sum(verdicts):
        value = f"{attack.robust_accuracy:.2%}, and {sum(verdicts):,} of {evaluation.n:,} verdicts"
        yield Finding("figure", value, again)
    steps = [figures.clean, *figures.after.values()]
    if steps != sorted(steps, reverse=True):
        shown = ", ".join(f"{step:.2%}" for step in steps)
        yield Finding("figure", f"it rises on the way: {shown}", again)
    if not evaluation.virtual_classes and attack.robust_accuracy != figures.autoattack:
        value = f"{attack.robust_accuracy:.2%}, and {figures.autoattack:.2%} after its four attacks"
        yield Finding("figure", value, again)
    if submission.facts["attacks"][figures.name].get("eps_bounded") is False:
        yield Finding("figure", "its images leave the ball of eps or [0, 1]", again)
    if figures.best_known < figures.autoattack:
        yield Finding(
            "figure",
            f"{figures.best_known:.2%} is what all attacks together leave",
            f"AutoAttack's own {figures.autoattack:.2%} is entered, and the lower as external",
            fails=False,
        )
    for flag in figures.flags:
        yield Finding("figure", f"AutoAttack: {flag}", "it is entered as unreliable", fails=False)
    if evaluation.virtual_classes and "figures" not in submission.facts["attacks"][figures.name]:
        value = f"{evaluation.virtual_classes} virtual classes, judged on the first K logits"
        remedy = "evaluate anew: AA+, which attacks all logits, may leave less"
        yield Finding("figure", value, remedy, fails=False)


def _declared(submission: Submission) -> Iterator[Finding]:
    paper, declared = submission.paper, submission.declared
    if not paper.well_named:
        remedy = "--id NameYearFirstword, as in Doe2026Labels or Doe2026Labels_WRN-28-10"
        yield Finding("id", repr(paper.id) if paper.id else "not given", remedy)
    elif any(paper.id == entry.id for entry in read_snapshot().entries):
        yield Finding("id", f"{paper.id} is published", "choose another --id")
    for name, value in (("title", paper.title), ("authors", paper.authors)):
        if not value.strip():
            yield Finding(name, "not given", f"--{name} TEXT")
    if not _LINK.fullmatch(paper.link):
        value = repr(paper.link) if paper.link else "not given"
        yield Finding("link", value, "--link URL of the paper, http or https")
    if not paper.venue.strip():
        yield Finding("venue", "not given", "--venue 'ICML 2026', 'arXiv, May 2026'", fails=False)
    if declared.extra_data is None:
        remedy = "--extra-data or --no-extra-data: images from elsewhere, its teacher's too"
        yield Finding("extra data", "not declared", remedy)
    remedy = f"--synthetic 1M, how many generated images, or --synthetic {NONE}"
    if declared.synthetic is None:
        yield Finding("synthetic data", "not declared", remedy)
    elif declared.synthetic != NONE and not _SYNTHETIC.fullmatch(declared.synthetic):
        yield Finding("synthetic data", repr(declared.synthetic), remedy)
    licence = declared.licence or ""
    if licence != "MIT" and not _LINK.fullmatch(licence):
        value = repr(licence) if licence else "not given"
        yield Finding("licence", value, "--license MIT, or the URL of your own")
    yield from _extra_data(submission)
    yield from _start(submission)


def _extra_data(submission: Submission) -> Iterator[Finding]:
    """The run itself tells of images from elsewhere."""
    declared, run = submission.declared, submission.judged.run or {}
    if run.get("extra") and not declared.extra_data and declared.synthetic in (None, NONE):
        value = "run.json tells of extra data, and neither extra nor synthetic data are declared"
        yield Finding("extra data", value, "--extra-data, or --synthetic and how many")


def _start(submission: Submission) -> Iterator[Finding]:
    """A model of the zoo was the start, and its data are the submission's too."""
    start = submission.judged.model or ""
    place = start.removeprefix(_ZOO).split("/")
    if not start.startswith(_ZOO) or len(place) != 3:
        return
    declared = submission.declared
    for entry in read_snapshot().entries:
        if [entry.dataset, entry.threat, entry.id] != place:
            continue
        undeclared = (entry.extra_data and not declared.extra_data) or (
            entry.synthetic and declared.synthetic in (None, NONE)
        )
        if undeclared:
            value = f"its starting point {entry.id} was trained with {entry.data} data"
            yield Finding("extra data", value, "declare them for this model too", fails=False)


def _weights(submission: Submission) -> Iterator[Finding]:
    evaluation = submission.judged.evaluation
    if submission.weights is not None:
        found = sha256(submission.weights)
        if found != evaluation.weights_sha256:
            yield Finding(
                "weights",
                f"{submission.weights.name} has sha256 {found[:12]}..., not the evaluation's "
                f"{(evaluation.weights_sha256 or 'none')[:12]}",
                "evaluate these weights again",
            )
    training = submission.facts.get("training")
    if training not in (None, "finished"):
        value = f"training is not finished: its run.json says {training!r}"
        yield Finding("weights", value, "finish it, or tell of it in the form", fails=False)


def _behaviour(submission: Submission) -> list[Finding]:
    """Of the model that was judged, and of the one that RobustBench loads: its code is another."""
    loaded = None if submission.exported is None else submission.exported.model
    if submission.images is None:
        return []
    x, _ = next(submission.images())
    found: dict[str, Finding] = {}
    for model in (submission.model, loaded):
        if model is not None:
            device = next((p.device for p in model.parameters()), x.device)
            sample, classes = x[:_SAMPLE].to(device), submission.judged.evaluation.num_classes
            found |= {f.rule + f.value: f for f in behaviour(model, sample, classes)}
    return list(found.values())
