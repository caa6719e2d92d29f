"""``robustlabels train``."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from robustlabels.cli import _show

if TYPE_CHECKING:
    from robustlabels.config import Config
    from robustlabels.training import FitResult


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("train")(train)


def train(
    dataset: Annotated[str | None, typer.Option(help="Data set, e.g. mnist or npz:PATH.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder that holds the data.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture.")] = None,
    labels: Annotated[str | None, typer.Option(help="Label scheme.")] = None,
    trainer: Annotated[str | None, typer.Option(help="Objective.")] = None,
    attack: Annotated[str | None, typer.Option(help="Training attack.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius; 8/255 is exact.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf or L2.")] = None,
    init: Annotated[
        str | None, typer.Option(help="Weights to start from: RUN folder or checkpoint.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="RUN folder or checkpoint.")] = None,
    teacher_model: Annotated[
        str | None, typer.Option(help="Architecture of a checkpoint; --model's by default.")
    ] = None,
    teacher_logits: Annotated[
        str | None, typer.Option(help="Folder of the frozen teacher's logits; made at first use.")
    ] = None,
    extra: Annotated[str | None, typer.Option(help="Extra data, e.g. npz:PATH.")] = None,
    extra_fraction: Annotated[
        float | None, typer.Option(help="Their share of each batch; 0.5 by default.")
    ] = None,
    extra_labels: Annotated[str | None, typer.Option(help="own or pseudo.")] = None,
    extra_teacher: Annotated[
        str | None, typer.Option(help="Makes pseudo-labels; --teacher by default.")
    ] = None,
    awp: Annotated[
        float | None, typer.Option(help="Weight perturbation: gamma, e.g. 0.005.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = None,
    out: Annotated[Path | None, typer.Option(help="RUN folder; runs/... by default.")] = None,
    config: Annotated[
        str | None, typer.Option(help="TOML file or recipe:NAME; the options override it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field: labels.alpha=0.3")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a model with a label scheme.

    Under torchrun several processes share each batch; --batch-size is that of each.
    """
    from robustlabels.config import make_config, set_field

    given = {
        "dataset": dataset,
        "data_root": data_root,
        "eps": eps,
        "norm": norm,
        "init": init,
        "teacher": teacher,
        "teacher_logits": teacher_logits,
        "extra_fraction": extra_fraction,
        "extra_labels": extra_labels,
        "extra_teacher": extra_teacher,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    named = {
        "model": model,
        "labels": labels,
        "trainer": trainer,
        "attack": attack,
        "extra": extra,
        "teacher_model": teacher_model,
    }
    values = gather({}, named, given, config=config, out=out, resume=resume)
    if awp is not None:
        table = values.get("awp")
        values["awp"] = {**(table if isinstance(table, dict) else {}), "gamma": awp}
    for setting in settings or []:
        set_field(values, setting)
    start(make_config(values), out, resume=resume)


def gather(
    defaults: Mapping[str, Any],
    named: Mapping[str, str | None],
    given: Mapping[str, Any],
    *,
    config: str | None,
    out: Path | None,
    resume: bool,
) -> dict[str, Any]:
    """A config's values: the defaults or the run to resume; over them the file; over it options.

    Options that name a thing are apart, for it has a table; None is one that was not given.
    """
    from robustlabels.errors import BadValueError
    from robustlabels.recipes import read_config
    from robustlabels.runs import RunFolder

    values = copy.deepcopy(dict(defaults))  # --set changes the tables in it
    if resume:
        if out is None:
            raise BadValueError("--resume needs --out, the run to go on with")
        values = RunFolder.open(out).config.model_dump(exclude_none=True)
    if config is not None:
        values.update(read_config(config))
    values.update({k: v for k, v in given.items() if v is not None})
    for key, name in named.items():
        if name is not None:
            _rename(values, key, name)
    return values


def start(config: Config, out: Path | None, *, resume: bool = False) -> FitResult:
    """Train with a progress bar, and print what came of it; ``runs/...`` where out is None."""
    from robustlabels import processes
    from robustlabels.training import fit_config

    processes.join(config.device)
    if out is None:
        parts = (config.dataset, config.model.name, config.labels.name, config.trainer.name)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"{stamp}-{'-'.join(p.replace('/', '_') for p in parts)}"
    with _show.progress_bars() as bars:
        task = bars.add_task("training", total=None, note="", visible=processes.is_first())

        def progress(done: int, total: int, record: dict[str, Any] | None) -> None:
            bars.update(task, completed=done, total=total)
            if record is not None:
                bars.update(task, note=_note(record))
                if bars.disable:
                    print(f"epoch {record['epoch']}: {_note(record)}", flush=True)

        result = fit_config(config, out=out, resume=resume, progress=progress)
    if processes.is_first():
        _report(result)
    return result


def _rename(values: dict[str, Any], key: str, name: str) -> None:
    """Set a table's name; another thing's parameters would not fit it, so they go."""
    table = values.get(key)
    if not isinstance(table, dict) or table.get("name") != name:
        values[key] = {"name": name}


def _note(record: dict[str, Any]) -> str:
    parts = [f"loss {record['train_loss']:.3f}"]
    for name, suffix in (("validation", ""), ("average", "_average")):
        shown = _accuracies(record, suffix)
        if shown:
            parts.append(f"{name}: {shown}")
    return ", ".join(parts)


def _accuracies(record: dict[str, Any], suffix: str = "") -> str:
    fields = (("clean", "validation_accuracy"), ("PGD", "validation_robust_accuracy"))
    found = [(what, record.get(f"{field}{suffix}")) for what, field in fields]
    return ", ".join(f"{what} {value:.1%}" for what, value in found if value is not None)


def _report(result: FitResult) -> None:
    assert result.out is not None
    if result.stopped:
        print(result.stopped)
    kind = "averaged weights" if result.best.get("weights") == "average" else "weights"
    print(f"best {kind}: epoch {result.best['epoch']} of {result.config.epochs}, by validation")
    if result.average is not None:
        from robustlabels.training.keeping import best_of_each

        for name, found in best_of_each(result.history).items():
            print(f"  {name} weights' best: epoch {found['epoch']}, {_accuracies(found)}")
    if result.test_accuracy is not None:
        print(f"clean accuracy on the test set: {result.test_accuracy:.2%}")
    print(f"run: {result.out}")
    print(f"next: robustlabels evaluate {result.out}")
