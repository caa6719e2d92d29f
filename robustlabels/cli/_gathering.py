"""The parts of a submission, from an evaluation's RUN folder and its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from robustlabels.devices import named_device
from robustlabels.errors import BadValueError, RunError, UserError
from robustlabels.factories import make_dataset
from robustlabels.leaderboard import read_snapshot
from robustlabels.leaderboard.evaluated import audit_of, read_judged
from robustlabels.leaderboard.submission import Declaration, Paper, Submission
from robustlabels.loading import OPAQUE, load_run
from robustlabels.models import real_classes
from robustlabels.models.attached import AttachedCode, attached_code
from robustlabels.models.exporting import Export, export
from robustlabels.models.zoo import ZOO, is_zoo_name
from robustlabels.runs import CONFIG, SUMMARY, RunFolder, load_into, load_weights, read_json

Part = TypeVar("Part")


def gather(
    evaluation: Path,
    paper: Paper,
    declared: Declaration,
    *,
    code: str | None = None,
    adversarial: Path | None = None,
    data_root: str | None = None,
    device: str = "auto",
) -> Submission:
    """Everything that can be had; why something can't is in the submission's ``missing``.

    Raises:
        ValueError: the attached code or the device can't be used.
        RuntimeError: there is no such evaluation.
    """
    attached = None if code is None else attached_code(code)
    there = named_device(device)
    missing: dict[str, str] = {}

    def attempt(part: str, make: Callable[[], Part]) -> Part | None:
        try:
            return make()
        except UserError as error:
            missing[part] = str(error)
            return None

    read_judged(evaluation)  # that it is one
    facts: dict[str, Any] = read_json(evaluation)
    folder = _folder(evaluation, facts.get("run"))
    if folder is None:
        missing["model"] = "no RUN folder is beside the evaluation, or where it was"
        submission = Submission(facts, paper, declared)
    else:
        audit = facts.get("audit") or attempt("audit", lambda: audit_of(folder.path, facts))
        facts |= {"run": str(folder.path), "audit": audit}
        submission = Submission(facts, paper, _with_architecture(declared, folder))
        judged = submission.judged.evaluation
        which = judged.weights or "best"
        weights = attempt("weights", lambda: folder.weights(which))
        whole = attempt("model", lambda: _model(folder, which, attached))
        model, exported = None, None
        if whole is not None:
            model = real_classes(whole, judged.num_classes).to(there)
            exported = attempt("exported", lambda: _export(whole, submission, folder, attached))
        if exported is not None:
            exported.model.to(there)
        submission = dataclasses.replace(
            submission,
            weights=weights,
            model=model,
            exported=exported,
            **(attempt("images", lambda: _images(folder, submission, data_root)) or {}),
        )
    images = attempt("adversarial", lambda: _adversarial(evaluation, adversarial, submission))
    return dataclasses.replace(submission, adversarial=images, missing=missing)


def _folder(evaluation: Path, run: str | None) -> RunFolder | None:
    for place in (evaluation.parent, *([Path(run)] if run else [])):
        if (place / CONFIG).is_file() and (place / SUMMARY).is_file():
            return RunFolder(place)
    return None


def _model(folder: RunFolder, which: str, code: AttachedCode | None) -> nn.Module:
    """With all its outputs, in eval mode."""
    if not folder.config.model.name.startswith(OPAQUE):
        return load_run(folder.path, which).model
    if code is None:
        raise BadValueError(f"the model of {folder.path} was given from Python: it needs --code")
    path = folder.weights(which)
    model = code.build(int(folder.summary["num_outputs"]))
    load_into(model, load_weights(path), path)
    return model.eval()


def _export(
    model: nn.Module, submission: Submission, folder: RunFolder, code: AttachedCode | None
) -> Export:
    evaluation, name = submission.judged.evaluation, folder.config.model.name
    return export(
        model,
        num_classes=evaluation.num_classes,
        name=submission.paper.id if submission.paper.well_named else "Submission",
        dataset=evaluation.dataset,
        threat=evaluation.norm,
        zoo=name.removeprefix(ZOO) if is_zoo_name(name) and code is None else None,
        code=code,
    )


def _with_architecture(declared: Declaration, folder: RunFolder) -> Declaration:
    """A model of the zoo's is published as its entry says."""
    name = folder.config.model.name
    if declared.architecture or not is_zoo_name(name):
        return declared
    for entry in read_snapshot().entries:
        if f"{ZOO}{entry.dataset}/{entry.threat}/{entry.id}" == name:
            return dataclasses.replace(declared, architecture=entry.architecture)
    return declared


def _images(folder: RunFolder, submission: Submission, data_root: str | None) -> dict[str, Any]:
    """The test images that were evaluated, in their order, and what is known of their files."""
    config, evaluation = folder.config, submission.judged.evaluation
    if config.dataset.startswith(OPAQUE):
        raise BadValueError(f"the data of {folder.path} were given from Python, not by name")
    data = make_dataset(config.dataset, data_root or config.data_root, **config.data)
    split, indices = data.test_split(), torch.tensor(evaluation.indices)
    if data.name != evaluation.dataset or int(indices.max()) >= len(split):
        raise BadValueError(
            f"{evaluation.n:,} images of {evaluation.dataset} were evaluated, and the run's data "
            f"are {len(split):,} test images of {data.name}"
        )
    size = int(submission.facts.get("batch_size") or 250)
    found: dict[str, Any] = {
        "images": lambda: split.batches(indices.split(size), torch.device("cpu")),
        "verified": config.data.get("verify", True) is True,
    }
    samples = getattr(getattr(split, "dataset", None), "samples", None)
    if evaluation.dataset == "imagenet" and samples is not None:
        found["files"] = ["/".join(Path(samples[i][0]).parts[-2:]) for i in evaluation.indices]
    return found


def _adversarial(evaluation: Path, given: Path | None, submission: Submission) -> Tensor:
    beside = [evaluation.with_name(f"{evaluation.stem}-adversarial.pt")]
    beside.append(evaluation.with_name("adversarial.pt"))
    for path in beside if given is None else [given]:
        if path.is_file():
            return _tensor(path, submission)
    raise RunError(f"there is no {beside[0] if given is None else given}")


def _tensor(path: Path, submission: Submission) -> Tensor:
    """A tensor, or an attack's among several by name."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a corrupt or hostile file makes the reader raise
        raise RunError(f"{path} is not a readable file of tensors") from error
    if isinstance(found, dict):
        name = submission.figures.name if submission.figures is not None else "autoattack"
        found = found.get(name)
    if not isinstance(found, Tensor):
        raise RunError(f"{path} holds neither a tensor nor one of the name of its attack")
    return found
