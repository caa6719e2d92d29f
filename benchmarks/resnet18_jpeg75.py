"""ResNet-18 on the JPEG copy of CIFAR-10: label schemes, TRADES, LTD and AWP, then AutoAttack.

    python benchmarks/resnet18_jpeg75.py --data ../shared/data --epochs 30 --seconds 540

Not the original CIFAR-10 pixels: no figure is comparable with the leaderboard. The schedule and the
attack's steps are the same for every method, so LTD's TRADES has TRADES' own attack here, PGD-10 on
the KL. Training and judging go on where an earlier call stopped; after --seconds the script ends
(exit 75 while there is more to do), so that a long run fits into short sessions. Results go to
OUT/resnet18-jpeg75-METHOD.json, one file a method, with the device's name.

A rehearsal on a CPU: --model small-cnn --train-images 512 --epochs 1 --n 16 --precision fp32
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch

import robustlabels as rl
from robustlabels import runs
from robustlabels.data import DataSet, TensorSplit
from robustlabels.errors import RunError, TrainingError
from robustlabels.training import FitResult

METHODS: dict[str, dict[str, Any]] = {
    "one-hot": {"trainer": "pgd-at"},
    "vs": {"trainer": "pgd-at", "scheme": {"name": "vs", "alpha": 0.9}},  # VS's AT on CIFAR-10
    "adr": {"trainer": "pgd-at", "scheme": "adr"},
    "trades": {"trainer": "trades"},
    "trades-awp": {"trainer": "trades", "awp": 0.005},
    "teacher": {"trainer": "standard"},
    "trades-ltd": {"trainer": "trades", "scheme": {"name": "ltd", "temperature": 5}},
}
TEACHER = "teacher"
TAUGHT = "trades-ltd"
UNFINISHED = 75


class TimeUpError(Exception):
    """The time of this call is spent; the run's state is saved."""


def main() -> int:
    args = parse()
    deadline = time.monotonic() + args.seconds
    data = load(args.data, args.train_images)
    failed = []
    for method in args.methods:
        target = args.out / f"resnet18-jpeg75-{method}.json"
        if target.exists():
            print(f"{target} is there", flush=True)
            continue
        try:
            report(method, data, args, deadline, target)
        except TimeUpError:
            print(f"{method}: time is up; run the same command again to go on", flush=True)
            return UNFINISHED
        except TrainingError as error:  # the others are worth their time all the same
            print(f"{method}: {error}", flush=True)
            failed.append(method)
    return 1 if failed else 0


def train(method: str, data: DataSet, args: argparse.Namespace, deadline: float) -> FitResult:
    """Train one method, or go on with it; the teacher first, where it has one."""

    def progress(done: int, total: int, record: dict[str, Any] | None) -> None:
        if record is not None:
            print(method, record, flush=True)
        # The state of the epoch before was saved right after its record.
        elif time.monotonic() > deadline and done < total:
            raise TimeUpError

    teacher = train(TEACHER, data, args, deadline).model if method == TAUGHT else None
    folder = run_folder(method, args)
    return rl.fit(
        args.model,
        data,
        **METHODS[method],
        teacher=teacher,
        eps="8/255",
        epochs=args.epochs,
        seed=args.seed,
        out=folder,
        resume=(folder / runs.CONFIG).exists(),
        progress=progress,
        precision=args.precision,
        channels_last=torch.cuda.is_available(),
        compile=args.compile,
        schedule={"name": "cyclic", "peak": 0.4},
        optimizer={"name": "sgd", "lr": 0.2, "weight_decay": 5e-4},
        augment={"crop_padding": 4, "flip": True},
    )


def run_folder(method: str, args: argparse.Namespace) -> Path:
    """Where a method's training, and what its judging has found so far, are kept."""
    return Path(args.state / f"{method}-{args.model}-{args.epochs}")


def report(
    method: str, data: DataSet, args: argparse.Namespace, deadline: float, target: Path
) -> None:
    """Train one method, judge it, write its JSON."""

    def progress(share: float, _: str) -> None:
        if time.monotonic() > deadline and share < 1:
            raise TimeUpError

    result = train(method, data, args, deadline)
    judged = rl.evaluate(
        result.model,
        data,
        attacks=[{"name": "pgd", "params": {"steps": 20}}, "autoattack"],
        eps="8/255",
        n=args.n,
        seed=args.seed,
        scheme=result.scheme,
        batch_size=args.eval_batch,
        state=run_folder(method, args) / "judging",
        progress=progress,
    )
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    seconds = [r["seconds"] for r in result.history]
    runs.write_json(
        target,
        {
            "what": "JPEG quality 75 copy of CIFAR-10, not the original pixels",
            "command": f"python {' '.join(sys.argv)}",
            "device": device,
            "method": METHODS[method],
            "model": args.model,
            "config": result.config.model_dump(),
            "seconds_per_epoch": sorted(seconds)[len(seconds) // 2],
            "best": result.best,
            "test_accuracy_all_images": result.test_accuracy,
            "evaluation": {k: v for k, v in judged.items() if k not in ("verdicts", "indices")},
        },
    )
    print(f"written: {target}", flush=True)


def load(folder: Path, train_images: int | None) -> DataSet:
    """The data set, or its first ``train_images`` in a random order, for a rehearsal."""
    import dataclasses

    data = rl.make_dataset("cifar10-jpeg75", str(folder))
    split = data.train_split()
    if train_images is None or not isinstance(split, TensorSplit):
        return data
    some = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:train_images]
    return dataclasses.replace(data, train=TensorSplit(split.x[some], split.y[some]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--compile", default="off", choices=["off", "on"])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--eval-batch", type=int, default=500)
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--state", type=Path, default=Path("runs/resnet18-jpeg75"))
    parser.add_argument("--out", type=Path, default=Path("docs/evidence"))
    args = parser.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RunError as error:
        sys.exit(f"{error}")
