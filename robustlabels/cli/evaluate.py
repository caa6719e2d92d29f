"""``robustlabels evaluate RUN``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from robustlabels.cli import _show


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("evaluate")(evaluate)


def evaluate(
    run: Annotated[Path, typer.Argument(help="RUN folder.")],
    attacks: Annotated[str, typer.Option(help="Names, with commas.")] = "pgd,autoattack",
    attack: Annotated[
        list[str] | None,
        typer.Option(help="One more: a name, or a TOML table { name = ..., its parameters }."),
    ] = None,
    n: Annotated[int | None, typer.Option(help="Test images; all by default.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius; the run's by default.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf or L2; the run's by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="File; RUN/evaluation.json by default.")] = None,
    weights: Annotated[str, typer.Option(help="best, last or average.")] = "best",
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
    seed: Annotated[
        int, typer.Option(help="Of the choice of images and the attacks.", min=0, max=2**63 - 1)
    ] = 0,
    data_root: Annotated[str | None, typer.Option(help="Folder of the data, if moved.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an evaluation that was not finished.")
    ] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Audit for gradient masking too, on these images.")
    ] = False,
    evaluation: Annotated[
        list[str] | None,
        typer.Option(help="One more: a name, or a TOML table { name = ..., its parameters }."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Judge a run on its test set: clean and robust accuracy, and calibration.

    Under torchrun several processes share the work.
    """
    from robustlabels import processes, runs

    runs.RunFolder.open(run)
    path = out if out is not None else run / "evaluation.json"
    with processes.joined() as gpu:
        result = _judge(
            run,
            path,
            [
                *(name.strip() for name in attacks.split(",") if name.strip()),
                *(_named(text) for text in attack or []),
            ],
            resume,
            gpu,
            n=n,
            eps=eps,
            norm=norm,
            seed=seed,
            batch_size=batch_size,
            device=device,
            weights=weights,
            data_root=data_root,
            evaluations=[
                "accuracy",
                "calibration",
                *(["audit"] if audit else []),
                *(_named(text) for text in evaluation or []),
            ],
        )
        if processes.place()[0] != 0:
            return
    if as_json:
        _show.print_json(result)
        return
    _print(run, path, result)


def _judge(
    run: Path, path: Path, attacks: list[Any], resume: bool, gpu: int, **options: Any
) -> dict[str, Any]:
    """Judge, and write what was found; or read it, where it is there already."""
    from robustlabels import processes, runs
    from robustlabels.cli._evaluation_files import EvaluationFiles
    from robustlabels.errors import BadValueError
    from robustlabels.threat import check_eps_given

    n, eps, norm, device = (options[key] for key in ("n", "eps", "norm", "device"))
    config = runs.RunFolder.open(run).config
    check_eps_given(eps, norm, config.eps, config.norm)
    files = EvaluationFiles(path)
    finished = files.finished(_request(run, attacks, options)) if resume else None
    if finished is not None:
        return finished
    files.refuse_others(resume)
    if n is not None and n < 1:
        raise BadValueError(f"n must be at least 1, not {n}")
    processes.wait_for_all()  # before any of them begins a state

    from robustlabels.factories import make_dataset
    from robustlabels.plugins import host
    from robustlabels.training import load_run

    for each in attacks:
        if isinstance(name := each.get("name") if isinstance(each, dict) else each, str):
            host()["attacks"].factory(name)  # refuse a misspelt one before anything is loaded
    loaded = load_run(run, options["weights"])
    config = loaded.config
    data = make_dataset(config.dataset, options["data_root"] or config.data_root, **config.data)

    import torch

    from robustlabels.evaluation import evaluate as judge
    from robustlabels.evaluation import held_out_of

    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{gpu}"
    with _show.progress_bars() as bars, files.state_of_use() as state:
        first = processes.place()[0] == 0
        task = bars.add_task("evaluating", total=1.0, note="", visible=first)

        def progress(done: float, text: str) -> None:
            bars.update(task, completed=done, note=text)

        result: dict[str, Any] = judge(
            loaded.model,
            data,
            attacks=attacks,
            eps=eps if eps is not None else config.eps,
            norm=norm if norm is not None else config.norm,
            n=n,
            seed=options["seed"],
            batch_size=options["batch_size"],
            device=device,
            scheme=loaded.scheme if loaded.scheme is not None else loaded.num_classes,
            evaluations=options["evaluations"],
            progress=progress,
            keep_adversarial=True,
            state=state,
            held_out=held_out_of(loaded, options["data_root"]),
        )
    inputs = result.pop("adversarial")
    result = {
        "run": str(run),
        "weights": options["weights"],
        "weights_sha256": runs.sha256(loaded.path),
        "training": loaded.summary.get("status"),
        "labels": _for_json(config.labels.model_dump()),
        "trainer": _for_json(config.trainer.model_dump()),
        "request": _request(run, attacks, options),
        **result,
    }
    if processes.place()[0] == 0:
        files.finish(result, {k: v for k, v in inputs.items() if k.startswith("autoattack")})
    return result


def _request(run: Path, attacks: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    """What the figures follow from, as JSON holds it."""
    from robustlabels import runs
    from robustlabels.threat import parse_eps

    folder = runs.RunFolder.open(run)
    norm = options["norm"] or folder.config.norm
    return {
        "attacks": [_with_hash(each) for each in attacks],
        "evaluations": options["evaluations"],
        "eps": parse_eps(options["eps"] or folder.config.eps, norm),
        "norm": norm,
        "weights_sha256": runs.sha256(folder.weights(options["weights"])),
        **{key: options[key] for key in ("n", "seed", "batch_size")},
    }


def _print(run: Path, path: Path, result: dict[str, Any]) -> None:
    rows: list[tuple[str, str, str]] = [
        ("clean", _show.percent(result["clean"]["top1"]), _ece(result, "clean"))
    ]
    rows += [
        row
        for name, found in result["attacks"].items()
        for row in [
            (
                name + _own_radius(result, found["params"]),
                _show.percent(found["robust_accuracy"]),
                _ece(result, name),
            ),
            *((f"  {k}", _show.percent(v), "-") for k, v in found.get("figures", {}).items()),
        ]
    ]
    rows.append(("worst case of all", _show.percent(result["robust_accuracy"]), "-"))
    threat = f"{result['norm']} eps {result['eps']:.4g}"
    title = f"{run}: {result['n']} test images of {result['dataset']}, {threat}"
    _show.print_table(("attack", "accuracy", "ECE"), rows, title)
    for name, interval in result.get("intervals", {}).items():
        if interval is not None:
            print(f"95 % interval of {name}: {interval[0]:.1%} to {interval[1]:.1%}")
    for note in _notes(result):
        print(note)
    for name in result["evaluations"]:
        print(f"{name}: figures in {path}")
    print(f"written: {path}")


def _own_radius(result: dict[str, Any], params: dict[str, Any]) -> str:
    """Return an attack's norm and eps where they are not the evaluation's."""
    eps = params.get("eps", result["eps"])
    norm = params.get("norm", result["norm"])
    if (eps, norm) == (result["eps"], result["norm"]) or not isinstance(eps, float):
        return ""
    return f" ({norm} eps {eps:.4g})"


def _with_hash(attack: Any) -> Any:
    """An attack as it was asked for; one on another model with that model's hash."""
    if not isinstance(attack, dict) or not isinstance(attack.get("source"), str):
        return attack
    from robustlabels.evaluation.transfers import source_hash

    sha256 = source_hash(attack["source"], str(attack.get("weights", "best")))
    return attack if sha256 is None else {**attack, "source_sha256": sha256}


def _named(text: str) -> Any:
    """An attack or evaluation as Python has it: a name, or a table of a name and parameters."""
    from robustlabels.config import set_field

    values: dict[str, Any] = {}
    set_field(values, f"given={text}")
    return values["given"]


def _for_json(value: Any) -> Any:
    """A config's values; JSON has no infinity (a temperature may be ``inf``), so it is text."""
    if isinstance(value, dict):
        return {k: _for_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _ece(result: dict[str, Any], name: str) -> str:
    value = result.get("ece", {}).get(name)
    return "-" if value is None else f"{value:.3f}"


def _notes(result: dict[str, Any]) -> list[str]:
    notes = [result["note"]] if result.get("note") else []
    if result["training"] != "finished":
        notes.append(f"training is not finished: its run.json says {result['training']!r}")
    if "audit" in result:
        notes.append(f"audit: {result['audit']['verdict']}")
    notes += [
        f"ECE of {name}: {count} images with NaN logits are excluded"
        for name, count in result.get("ece_excluded", {}).items()
    ]
    for name, found in result["attacks"].items():
        notes += [f"{name}: {flag}" for flag in found.get("flags") or []]
    return notes
