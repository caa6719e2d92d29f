"""What adversarial weight perturbation costs: each trainer with it beside itself without.

    python benchmarks/awp_cost.py [--rounds 7] [--out benchmarks/results/awp_cost.json]

PGD-10 on random 32x32 images. The contenders alternate; a ratio is the median over rounds of the
quotient of neighbours. On a CPU the time is the process's own, which other processes disturb less.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import robustlabels as rl

TRAINERS = ("pgd-at", "trades", "mart")
VARIANTS = ("robustlabels", "wu", "adr")


def step_seconds(trainer: str, awp: Any, options: argparse.Namespace) -> float:
    """Of one step, the first of the run left out."""
    generator = torch.Generator().manual_seed(0)
    n = options.batch * (options.steps + 1)
    x = torch.rand(n, 3, 32, 32, generator=generator)
    y = torch.randint(10, (n,), generator=generator)
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    ticks = []

    def progress(*call: Any) -> None:
        if call[2] is None:  # a step, not an epoch
            if options.device != "cpu":
                torch.cuda.synchronize()
            ticks.append(clock())

    rl.fit(
        options.model, (x, y), "one-hot", trainer, epochs=1, batch_size=options.batch,
        validation=0, num_classes=10, device=options.device, awp=awp, progress=progress,
        precision=options.precision, channels_last=True,
    )  # fmt: skip
    return (ticks[-1] - ticks[0]) / (len(ticks) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--model", default="small-cnn")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    ratios: dict[str, dict[str, list[float]]] = {
        t: {v: [] for v in VARIANTS} for t in TRAINERS if t in rl.list_trainers()
    }
    for number in range(options.rounds + 1):
        for trainer, found in ratios.items():
            plain = step_seconds(trainer, None, options)
            for variant in VARIANTS:
                perturbed = step_seconds(trainer, {"variant": variant}, options)
                if number:  # the first round warms up
                    found[variant].append(perturbed / plain)
    cuda = options.device != "cpu"
    result = {
        "what": "time of an optimizer step with awp over without, PGD-10, median of ratios",
        "note": options.note,
        "model": options.model,
        "batch": options.batch,
        "precision": options.precision,
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": None if cuda else round(os.getloadavg()[0], 1),
        "versions": {n: version(n) for n in ("torch", "robustlabels")},
        "ratios": {
            trainer: {v: round(statistics.median(r), 3) for v, r in found.items()}
            for trainer, found in ratios.items()
        },
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
