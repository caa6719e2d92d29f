"""``fit``: from names and objects to a trained model and its RUN folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustlabels import __version__, processes, runs
from robustlabels.config import Config
from robustlabels.display import check_progress
from robustlabels.errors import BadValueError
from robustlabels.labels import set_value_checks
from robustlabels.randomness import preserved
from robustlabels.training.assembly import Assembly, Given, assemble
from robustlabels.training.folders import (
    STATE_FILE,
    keep_pseudo_labels,
    load_state,
    open_folder,
    so_far,
)
from robustlabels.training.keeping import Keeper, Outcome, Record, Weights, best_of_each
from robustlabels.training.layout import usual_layout
from robustlabels.training.request import read_request
from robustlabels.training.result import FitResult, Progress, reported
from robustlabels.training.sharing import Share, check_shareable
from robustlabels.training.teachers import Teacher
from robustlabels.training.validation import validate


def fit(
    model: str | nn.Module | Mapping[str, Any] = "small-cnn",
    data: Any = "digits",
    scheme: Any = "one-hot",
    trainer: Any = "pgd-at",
    attack: Any = None,
    eps: str | float = "8/255",
    epochs: int = 30,
    seed: int = 0,
    out: str | Path | None = None,
    *,
    init: Teacher | None = None,
    teacher: Teacher | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    num_classes: int | None = None,
    layer: str | None = None,
    scheduler: Any = None,
    **options: Any,
) -> FitResult:
    """Train a model with a label scheme; ``robustlabels train`` in Python.

    Args:
        model: a name, a table with ``name`` and parameters, or any ``nn.Module`` that maps
            (N, C, H, W) in [0, 1] to logits. A module is trained in place, its last linear layer
            widened where the scheme needs more outputs. As in every torch loop, ``model.train()``
            is called at each step, so a batch norm that shall stay frozen must override it.
        data: a name, a table with ``name`` and parameters, a pair ``(x, y)``, a pair of pairs
            (train, test), a triple of pairs (train, validation, test), a torch data set or a
            loader.
        scheme: a name, a table, or a scheme.
        trainer: a name, a table, or a trainer.
        attack: of the training: a name, a table, or an attack; the trainer's own by default.
        eps: radius of the threat model; "8/255" is exact.
        epochs: passes over the training data.
        seed: of everything random. The caller's own generators are left as they were.
        out: RUN folder to write; it must be new or empty, or the run to ``resume``.
        init: weights to start from, as for ``teacher``; virtual classes that they lack are drawn.
        teacher: for schemes with a frozen one: a RUN folder, a checkpoint file or a module.
        resume: go on where the run in ``out`` was; it ends with the bits of one never stopped.
        progress: True for a progress bar, or a callback that gets (completed steps, all steps, the
            epoch's record or None).
        num_classes: K, for tensors that may lack the last classes.
        layer: Name of a given model's last layer (as in ``model.named_modules()``), a ``Linear`` or
            a 1x1 ``Conv2d``, where the scheme needs more outputs; the last ``Linear`` by default.
        scheduler: Scheduler from ``torch.optim.lr_scheduler``, or a function that makes one for the
            optimizer; it takes a step after each epoch, in place of ``schedule``.
        **options: any other field of ``robustlabels.config.Config``, tables as dicts. ``optimizer``
            may also be a torch optimizer, its class or a ``functools.partial`` of it, or a
            function of the model that returns one; ``validation`` may also be a pair
            ``(x, y)``, a torch data set or a loader, which alone chooses the best weights.

    Returns:
        The result; its model has the best weights by validation.

    Raises:
        ValueError: a bad argument. KeyError: an unknown name. RuntimeError: a broken or foreign
            run, or training that diverged.
    """
    config, given = read_request(
        model,
        data,
        scheme,
        trainer,
        attack,
        teacher,
        num_classes,
        eps=eps,
        epochs=epochs,
        seed=seed,
        init=init,
        layer=layer,
        scheduler=scheduler,
        **options,
    )
    return fit_config(
        config,
        out=None if out is None else Path(out),
        resume=resume,
        progress=progress,
        given=given,
        num_classes=num_classes,
    )


def fit_config(
    config: Config,
    *,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | bool | None = None,
    given: Given | None = None,
    num_classes: int | None = None,
) -> FitResult:
    """Train what a config says; see :func:`fit`."""
    if resume and out is None:
        raise BadValueError("resume needs out, the run to go on with")
    check_progress(progress)
    processes.join(config.device)
    given = given or Given()
    if resume and out is not None:
        given.resumed, given.pseudo_labels = processes.first_only(lambda: so_far(out))
    with processes.leaving_at_once(), preserved(), _determinism(config.deterministic):
        assembly = assemble(config, given, num_classes)
        learners = {"trainer": assembly.engine.trainer, "scheme": assembly.engine.scheme}
        check_shareable(assembly.config, assembly.facts, learners)
        folder, state = processes.first_only(
            lambda: open_folder(out, resume, assembly.config, assembly.facts)
        )
        if state is not None:
            load_state(assembly, state, folder)
        if processes.is_first():
            keep_pseudo_labels(assembly, folder)
        else:  # the folder is the first one's
            folder, progress = None, None
        try:
            with reported(progress) as report:
                return replace(_train(assembly, folder, report), out=out)
        finally:
            if assembly.config.channels_last:
                usual_layout(assembly.engine.model)


class _MemoryKeeper(Keeper):
    """Keeps the best weights, and tells the caller how far training is."""

    def __init__(self, progress: Progress | None) -> None:
        self.best: Weights | None = None
        self._progress = progress

    def on_step(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total, None)

    def on_best(self, weights: Weights, record: Record) -> None:
        self.best = {k: v.detach().clone() for k, v in weights.items()}

    def on_epoch(self, history: list[Record], done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total, history[-1])


class _FolderKeeper(_MemoryKeeper):
    """Keeps everything in a RUN folder."""

    def __init__(self, progress: Progress | None, folder: runs.RunFolder) -> None:
        super().__init__(progress)
        self._folder = folder

    def on_best(self, weights: Weights, record: Record) -> None:
        # One entry: safetensors writes several in random order, and the same run would not give
        # the same file.
        meta = {"robustlabels": __version__}
        runs.save_weights(self._folder.path / runs.BEST, weights, meta)

    def on_epoch(self, history: list[Record], done: int, total: int) -> None:
        self._folder.write_metrics(history)
        super().on_epoch(history, done, total)

    def on_state(self, state: dict[str, Any]) -> None:
        with runs.atomic_file(self._folder.path / runs.STATE / STATE_FILE) as file:
            torch.save(state, file)


def _train(
    assembly: Assembly, folder: runs.RunFolder | None, progress: Progress | None
) -> FitResult:
    engine = assembly.engine
    keeper: Keeper = Keeper()
    if processes.is_first():
        keeper = _MemoryKeeper(progress) if folder is None else _FolderKeeper(progress, folder)
    checked = engine.scheme.check_values
    # The data's labels were checked when they were loaded, or are as they stream in.
    set_value_checks(engine.scheme, False)
    try:
        outcome = engine.run(keeper)
    except (Exception, SystemExit) as error:  # a plugin may call sys.exit
        if folder is not None:
            if _worthless(folder):
                folder.discard()
            else:
                folder.update_summary(status="failed", stopped=str(error))
        raise
    finally:
        set_value_checks(engine.scheme, checked)
    kept = keeper.best if isinstance(keeper, _MemoryKeeper) else None
    return _finish(assembly, folder, outcome, kept)


def _worthless(folder: runs.RunFolder) -> bool:
    """Whether a run failed before it kept anything: then its folder is only in the way."""
    kept = (folder.path / runs.BEST, folder.path / runs.STATE / STATE_FILE)
    return not any(path.exists() for path in kept)


def _best(folder: runs.RunFolder | None, kept: Weights | None) -> Weights:
    """The best weights, on the CPU."""
    if folder is not None:
        return runs.load_weights(folder.weights("best"))
    assert kept is not None  # the engine hands out weights whichever way it ends
    return {k: v.cpu() for k, v in kept.items()}


def _finish(
    assembly: Assembly,
    folder: runs.RunFolder | None,
    outcome: Outcome,
    best: Weights | None,
) -> FitResult:
    engine, config = assembly.engine, assembly.config
    last = _copied(engine.model.state_dict())
    average: Weights | None = None
    if config.averaging is not None:
        average = _copied(engine.averages[config.averaging].state_dict())
    assert outcome.best is not None  # the engine names the weights whichever way it ends
    record = {k: v for k, v in outcome.best.items() if k != "rank"}
    engine.model.load_state_dict(processes.first_only(lambda: _best(folder, best)))
    engine.model.eval()
    test = _test_accuracy(assembly)
    if folder is not None:
        runs.save_weights(folder.path / runs.LAST, last, {"robustlabels": __version__})
        if average is not None:
            runs.save_weights(folder.path / runs.AVERAGE, average, {"robustlabels": __version__})
        folder.update_summary(
            status="stopped" if outcome.stopped else "finished",
            stopped=outcome.stopped,
            finished=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            best=record,
            best_of_each=best_of_each(outcome.history),
            last=outcome.history[-1] if outcome.history else None,
            test_accuracy=test,
            weights_sha256=runs.sha256(folder.weights("best")),
        )
    return FitResult(
        model=engine.model,
        scheme=engine.scheme,
        num_classes=engine.num_classes,
        config=config,
        history=outcome.history,
        best=record,
        last=last,
        average=average,
        test_accuracy=test,
        stopped=outcome.stopped,
        out=None if folder is None else folder.path,
    )


def _copied(weights: Weights) -> Weights:
    usual = torch.contiguous_format
    return {k: v.detach().clone(memory_format=usual) for k, v in weights.items()}


def _test_accuracy(assembly: Assembly) -> float | None:
    engine, split, share = assembly.engine, assembly.test, Share.here()
    if split is None or len(split) == 0:
        return None
    found = validate(
        engine.model,
        split,
        torch.arange(len(split)),
        num_classes=engine.num_classes,
        attack=None,
        batch_size=max(engine.config.batch_size, 256) * share.count,
        device=engine.device,
        share=share,
    )
    return found.clean


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Only deterministic kernels, if wanted; the caller's settings come back."""
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        if wanted:
            # Older versions of torch refuse a GPU's first product of matrices without it.
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
