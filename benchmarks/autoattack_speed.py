"""Our AutoAttack beside the official code: the same verdicts, and the time that each needs.

    python benchmarks/autoattack_speed.py --out benchmarks/results/autoattack_speed.json
    python benchmarks/autoattack_speed.py --device cuda --times 10 --out OUT

Three adversarially trained nets: an MLP and a LeNet on MNIST, a small CNN on the JPEG CIFAR-10
(quality 75: not the original pixels). The official code is pyautoattack's, called directly. Each
round judges new images with the standard version: official and ours with the same batches and seed,
whose verdicts are compared image by image; and the official at other batch sizes, so that ours is
timed against its best. The time is this process' CPU time on one thread, so that another process
on the machine does not enter; on a GPU it is the wall clock's, with so many times the images. A
ratio is the quotient of the sums over all rounds. Rounds are kept in OUT as they end, and a second
call goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import torch
from _timing import about as machine
from _timing import seconds_of
from torch import Tensor, nn

import robustlabels as rl
from robustlabels import runs
from robustlabels.evaluation import autoattack
from robustlabels.factories import make_dataset
from robustlabels.loading import load_run

DATA = Path(__file__).parents[2] / "shared" / "data"
FIELDS = ("dataset", "eps", "trained_on", "epochs", "images", "rounds")
SUBJECTS: dict[str, dict[str, Any]] = {
    name: dict(zip(FIELDS, row, strict=True))
    for name, row in {
        "mlp": ("mnist", 0.15, 10_000, 5, 250, 3),
        "lenet": ("mnist", 0.25, 6_000, 5, 100, 3),
        "small-cnn": ("cifar10-jpeg75", 8 / 255, 6_000, 4, 30, 1),
    }.items()
}


def trained(name: str, folder: Path, device: str, times: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The net, and its test images in random order."""
    about = SUBJECTS[name]
    data = make_dataset(about["dataset"], str(DATA))

    def drawn(split: Any, count: int) -> tuple[Tensor, Tensor]:
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:count]
        return next(iter(split.batches([order], torch.device("cpu"))))

    if not (folder / name / runs.BEST).exists():
        rl.fit(
            name,
            drawn(data.train, about["trained_on"]),
            trainer="pgd-at",
            attack={"name": "pgd", "steps": 5},
            eps=about["eps"],
            epochs=about["epochs"],
            optimizer={"name": "adamw", "lr": 2e-3, "weight_decay": 1e-4},
            schedule={"name": "cosine"},
            device=device,
            out=folder / name,
        )
    x, y = drawn(data.test_split(), times * about["images"] * about["rounds"])
    return load_run(folder / name).model.eval().to(device), x.to(device), y.to(device)


def official(model: nn.Module, x: Tensor, y: Tensor, eps: float, size: int) -> Tensor:
    from pyautoattack import AutoAttack

    attack = AutoAttack(
        model, norm="Linf", eps=eps, version="standard", seed=0, device=x.device.type
    )
    x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=size)
    with torch.no_grad():
        return (model(x).argmax(1) == y) & (model(x_adv).argmax(1) == y)


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, size: int) -> Tensor:
    return autoattack(model, x, y, eps=eps, seed=0, batch_size=size).robust


def one_round(model: nn.Module, x: Tensor, y: Tensor, eps: float, number: int) -> dict[str, Any]:
    """Every contender on the same images; who begins changes from round to round."""
    size = len(x)
    contenders = {
        f"official, batch {size}": lambda: official(model, x, y, eps, size),
        "ours": lambda: ours(model, x, y, eps, size),
        f"official, batch {size // 5}": lambda: official(model, x, y, eps, size // 5),
    }
    names = list(contenders)
    verdicts: dict[str, Tensor] = {}
    seconds = {}
    for name in names[number % 3 :] + names[: number % 3]:

        def turn(name: str = name) -> None:
            verdicts[name] = contenders[name]()

        seconds[name] = seconds_of(turn, x.device.type)
    theirs, mine = verdicts[names[0]].cpu(), verdicts["ours"].cpu()
    return {
        "images": size,
        "robust": int(mine.sum()),
        "differ": int((mine != theirs).sum()),
        "in our favour": int((~mine & theirs).sum()),  # broken by us alone: the stronger attack
        "seconds": seconds,
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    total = {name: sum(r["seconds"][name] for r in rounds) for name in rounds[0]["seconds"]}
    best = min((name for name in total if name != "ours"), key=total.__getitem__)
    return {
        "images": sum(r["images"] for r in rounds),
        "robust": sum(r["robust"] for r in rounds),
        "verdicts that differ": sum(r["differ"] for r in rounds),
        "broken by ours alone": sum(r["in our favour"] for r in rounds),
        "ours over official at its best": total["ours"] / total[best],
        "best": best,
        "relative": {name: value / total[best] for name, value in total.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/autoattack_speed"))
    parser.add_argument("--subjects", default=",".join(SUBJECTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--times", type=int, default=1, help="so many times the images of a round")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    result: dict[str, Any] = {
        "what": "AutoAttack standard, Linf: CPU time on one thread, on a GPU the wall clock's",
        **machine(options.device, "pyautoattack"),
        "subjects": {},
    }
    if options.out.exists():
        result["subjects"] = json.loads(options.out.read_text())["subjects"]
    for name in options.subjects.split(","):
        about = SUBJECTS[name]
        model, x, y = trained(name, options.runs, options.device, options.times)
        found = result["subjects"].setdefault(name, {**about, "done": []})
        for number in range(len(found["done"]), about["rounds"]):
            size = options.times * about["images"]
            part = slice(number * size, (number + 1) * size)
            found["done"].append(one_round(model, x[part], y[part], about["eps"], number))
            found["summary"] = summary(found["done"])
            options.out.parent.mkdir(parents=True, exist_ok=True)
            runs.write_json(options.out, result)
            print(name, json.dumps(found["summary"]), flush=True)


if __name__ == "__main__":
    main()
