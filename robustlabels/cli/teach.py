"""``robustlabels teach``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robustlabels.cli.train import gather, start

# LTD's appendix A: teacher and student have one configuration, with lr .1, Nesterov .9 and weight
# decay 5e-4 as every run of ours.
RECIPE: dict[str, Any] = {
    "trainer": {"name": "standard"},
    "epochs": 120,
    "schedule": {"name": "step", "milestones": [2 / 3, 5 / 6], "gamma": 0.1},
}
CIFAR_AUGMENTATION = {"crop_padding": 4, "flip": True}


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("teach")(teach)


def teach(
    dataset: Annotated[str | None, typer.Option(help="Data set, e.g. mnist or npz:PATH.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Folder that holds the data.")] = None,
    model: Annotated[str | None, typer.Option(help="Architecture: the student's, in LTD.")] = None,
    trainer: Annotated[
        str | None, typer.Option(help="Objective: standard; or pgd-at for a robust teacher.")
    ] = None,
    eps: Annotated[str | None, typer.Option(help="Radius of a robust one; 8/255 is exact.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; 120.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = None,
    out: Annotated[Path | None, typer.Option(help="RUN folder; runs/... by default.")] = None,
    config: Annotated[
        str | None, typer.Option(help="TOML file or recipe:NAME; the options override it.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any field: optimizer.lr=0.05")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
) -> None:
    """Train a teacher by the recipe of LTD's appendix A: natural, unless --trainer is another."""
    from robustlabels import processes
    from robustlabels.config import make_config, set_field

    given = {
        "dataset": dataset,
        "data_root": data_root,
        "eps": eps,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "device": device,
    }
    named = {"model": model, "trainer": trainer}
    values = gather(RECIPE, named, given, config=config, out=out, resume=resume)
    if str(values.get("dataset")).startswith("cifar"):
        values.setdefault("augment", dict(CIFAR_AUGMENTATION))
    for setting in settings or []:
        set_field(values, setting)
    result = start(make_config(values), out, resume=resume)
    if processes.is_first():
        print(f"or: robustlabels train --labels ltd --teacher {result.out} --trainer trades")
