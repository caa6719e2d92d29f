"""The rows of benchmarks/speed.py: what is measured, against which target, and how."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import _steps
import torch
from _steps import Setting
from _timing import alternate, ratio
from torch.utils.flop_counter import FlopCounterMode

import robustlabels as rl

HERE = Path(__file__).parent
Figure = dict[str, Any]
SCHEMES = ("ls", "sls", "als", "bls", "sbls", "vs")
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s, of the makers' data sheets (SXM)."""


@dataclass(frozen=True)
class Options:
    """How the rows are measured.

    Attributes:
        device: "cpu" or "cuda".
        compiled: whether our best is compiled, as it is on a GPU.
        tiny: to rehearse the code, with figures that mean nothing.
    """

    device: str
    compiled: bool = False
    tiny: bool = False

    @property
    def best(self) -> dict[str, Any]:
        """Options of our fastest step."""
        return {"compile": "on"} if self.compiled else {}

    def rounds(self, count: int) -> int:
        return 2 if self.tiny else count

    def setting(self, net: str, steps: int = 10) -> Setting:
        fast = self.device != "cpu"
        batch, steps = (8, 2) if self.tiny else (128, steps)
        return Setting(net, steps, batch, device=self.device, precision="bf16" if fast else "fp32")


@dataclass(frozen=True)
class Row:
    """One target: what it is about, and who measures it."""

    title: str
    target: str
    measure: Callable[[Options], list[Figure]]
    distributions: tuple[str, ...] = field(default=())


def step_rows(
    net: str, steps: int, rounds: int, loop_target: str, floor_target: str
) -> tuple[Row, Row]:
    """Our step beside the floor and beside torchattacks', all in turns; two targets."""
    what = f"PGD-{steps}"

    @functools.cache
    def taken(options: Options) -> dict[str, list[float]]:
        setting = options.setting(net, steps)
        contenders = {
            "floor": _steps.floor(setting),
            "ours": _steps.ours(setting),
            "best": _steps.ours(setting, **options.best),
            "torchattacks": _steps.torchattacks_loop(replace(setting, precision="fp32")),
        }
        if not options.compiled:  # the default is the best
            del contenders["best"]
        return alternate(contenders, options.rounds(rounds), options.device)

    def over_floor(options: Options) -> list[Figure]:
        found = taken(options)
        return [{"what": what, **ratio(found["ours"], found["floor"])}]

    def over_loop(options: Options) -> list[Figure]:
        found = taken(options)
        return [{"what": what, **ratio(found.get("best", found["ours"]), found["torchattacks"])}]

    return (
        Row(f"`pgd-at` step / floor, {net}", floor_target, over_floor),
        Row(
            f"`pgd-at` step / torchattacks in a loop, {net}",
            loop_target,
            over_loop,
            ("torchattacks",),
        ),
    )


def art(options: Options) -> list[Figure]:
    import art_training

    images = 2 * art_training.BATCH if options.tiny else 10 * art_training.BATCH
    taken = art_training.measured(options.rounds(7), images, options.device)
    return [
        {
            "what": "PGD-7",
            **ratio(taken["LabelTrainer one-hot"], taken["ART MadryPGD"]),
        }
    ]


def labels(options: Options, names: tuple[str, ...], rounds: int) -> list[Figure]:
    """What a scheme adds to a step, over a step.

    A few microseconds drown in the noise of a whole step: the addition is measured on the net's
    last layer alone, through the whole engine and all passes.
    """
    setting = options.setting("small-cnn")
    last = [m for m in setting.model().modules() if isinstance(m, torch.nn.Linear)][-1]
    head = replace(setting, net="linear", shape=(1, 1, last.in_features))
    turns = {n: _steps.ours(head, n) for n in ("one-hot", *names)}
    taken = alternate(turns, options.rounds(20 * rounds), options.device, warm_up=5)
    whole = alternate({"one-hot": _steps.ours(setting)}, options.rounds(7), options.device)
    step = statistics.median(whole["one-hot"])
    return [
        {
            "what": n,
            **ratio([step + a - b for a, b in pairs], [step] * len(pairs)),
            "added_us": round(1e6 * statistics.median(a - b for a, b in pairs)),
        }
        for n, pairs in ((n, list(zip(taken[n], taken["one-hot"], strict=True))) for n in names)
    ]


def teachers(options: Options, rounds: int) -> list[Figure]:
    """Whole steps, each scheme in turns with one-hot."""
    setting = options.setting("small-cnn")
    figures = []
    for name, given in (("adr", {}), ("ltd", {"teacher": setting.model()})):
        turns = {"one-hot": _steps.ours(setting), name: _steps.ours(setting, name, **given)}
        taken = alternate(turns, options.rounds(rounds), options.device)
        figures.append({"what": name, **ratio(taken[name], taken["one-hot"])})
    return figures


def awp(options: Options) -> list[Figure]:
    setting = options.setting("small-cnn")
    turns = {"none": _steps.ours(setting), "awp": _steps.ours(setting, awp={})}
    taken = alternate(turns, options.rounds(15), options.device)
    return [{"what": "PGD-10", **ratio(taken["awp"], taken["none"])}]


def memory(net: str) -> Row:
    """Peak memory of three steps over what was there before: a process for each contender."""

    def measure(options: Options) -> list[Figure]:
        setting = options.setting(net, steps=2)
        found: dict[str, list[float]] = {"floor": [], "ours": []}
        for _ in range(options.rounds(5)):
            for name, taken in found.items():
                asked = json.dumps({"maker": name, **setting.__dict__})
                done = subprocess.run(
                    [sys.executable, HERE / "_memory.py", asked],
                    stdout=subprocess.PIPE, text=True, check=True,
                )  # fmt: skip
                taken.append(float(done.stdout))
        peak = {name: round(statistics.median(t) / 2**20) for name, t in found.items()}
        return [{"what": "peak", **ratio(found["ours"], found["floor"]), "MiB": peak}]

    return Row(f"memory of a step / floor's, {net}", "at most 1.10", measure)


IMPORTS = {
    "torch": ["-c", "import torch"],
    "ours": ["-c", "import robustlabels as r; r.make_scheme('vs', num_classes=10)"],
}


def imports(options: Options) -> list[Figure]:
    """CPU time of whole processes."""
    import resource

    def spent(code: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(options.rounds(15)):
        for name, code in IMPORTS.items():
            found[name].append(spent(code))
    return [{"what": "CPU time", **ratio(found["ours"], found["torch"])}]


def help_seconds(options: Options) -> list[Figure]:
    taken = []
    for _ in range(options.rounds(15)):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "robustlabels", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        taken.append(time.perf_counter() - started)
    seconds = statistics.median(taken)
    shown = "at most 0.5 s" if seconds <= 0.5 else "above 0.5 s"
    return [{"what": "time", "seconds": round(seconds, 3), "shown": shown}]


def agreement(options: Options) -> list[Figure]:
    """Loss under the attack and accuracy of plain fp32 runs and of the fast path's, over seeds."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    x = torch.nn.functional.interpolate(x, size=32).expand(-1, 3, -1, -1).contiguous()
    y = torch.tensor(digits.target)
    data = ((x[:1200], y[:1200]), (x[1200:], y[1200:]))
    plain = {"channels_last": False}
    fast = options.best | ({} if options.device == "cpu" else {"precision": "bf16"})
    epochs, seeds = (1, 2) if options.tiny else (4, 5)
    runs: dict[str, list[Any]] = {"plain": [], "fast": []}
    for seed in range(seeds):
        for name, how in (("plain", plain), ("fast", fast)):
            runs[name].append(
                rl.fit(
                    {"name": "small-cnn", "width": 8},
                    data,
                    trainer="pgd-at",
                    seed=seed,
                    eps=8 / 255,
                    attack={"name": "pgd", "steps": 2 if options.tiny else 5},
                    epochs=epochs,
                    validation=0,
                    num_classes=10,
                    device=options.device,
                    **how,
                )
            )
    figures = []
    for what, of in (
        ("loss", lambda r: r.history[-1]["train_loss"]),
        ("accuracy", lambda r: r.test_accuracy),
    ):
        a, b = ([of(r) for r in runs[name]] for name in ("fast", "plain"))
        gap = statistics.mean(p - q for p, q in zip(a, b, strict=True))
        spread = statistics.stdev(b)
        shown = f"{gap:+.4f} (plain over {seeds} seeds: {statistics.mean(b):.3f} +- {spread:.3f})"
        figures.append({"what": what, "fast": a, "plain": b, "shown": shown})
    return figures


def epoch(options: Options) -> list[Figure]:
    """ResNet-18 on CIFAR-10's shapes: an epoch from the steps of a part of one, and its FLOPs."""
    setting = options.setting("resnet18")
    augment = {"crop_padding": 4, "flip": True}
    take = _steps.ours(setting, augment=augment, **options.best)
    for _ in range(2 if options.tiny else 10):
        take()
    steps = -(-50_000 // setting.batch)
    count = 2 if options.tiny else steps  # a whole epoch
    started = time.perf_counter()
    for _ in range(count):
        take()
    if options.device != "cpu":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / count * steps
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        setting.model()(setting.data()[0].to(setting.device))
    # A backward for the inputs costs one forward, one for the parameters too costs two.
    passes = 2 * setting.steps + 3
    rate = counter.get_total_flops() * passes * steps / seconds
    name = torch.cuda.get_device_name() if options.device != "cpu" else "cpu"
    peak = next((p for part, p in PEAK_BF16.items() if part in name), None)
    share = "" if peak is None else f", {rate / peak:.0%} of peak bf16 FLOP/s"
    figure: Figure = {"what": "time", "shown": f"{seconds:.1f} s on {name}{share}"}
    return [figure | {"seconds": seconds, "flops": rate, "peak": peak}]


def syncs(options: Options) -> list[Figure]:
    """Waits for the device in three steps of each trainer, as torch itself reports them."""
    import warnings

    figures = []
    for trainer in ("pgd-at", "trades"):
        made = _steps.engine(options.setting("small-cnn"), "als", trainer=trainer)
        batches = [next(iter(made._batches.rest_of_epoch(n))) for n in range(4)]
        made._stepper.take(batches[0], 0)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            if options.device != "cpu":
                torch.cuda.set_sync_debug_mode("warn")
            for n in (1, 2, 3):
                made._stepper.take(batches[n], n)
            if options.device != "cpu":
                torch.cuda.set_sync_debug_mode("default")
        # Switching it on is a warning of another kind, "does not yet detect all synchronizing ...".
        waits = [w for w in seen if "called a synchronizing" in str(w.message)]
        figures.append({"what": trainer, "shown": len(waits)})
    return figures


def _steps_of(prefix: str, rows: tuple[Row, Row]) -> dict[str, Row]:
    return {f"{prefix}-floor": rows[0], f"{prefix}-torchattacks": rows[1]}


def _common(rounds: int, art_target: str) -> dict[str, Row]:
    return {
        "art": Row(
            "`LabelTrainer` / ART MadryPGD, two convolutions, 28x28",
            art_target,
            art,
            ("adversarial-robustness-toolbox",),
        ),
        "schemes": Row(
            "label schemes / `one-hot`, small-cnn",
            "at most 1.01",
            lambda options: labels(options, SCHEMES, rounds),
        ),
        "teachers": Row(
            "schemes with a teacher / `one-hot`, small-cnn",
            "at most 1.04",
            lambda options: teachers(options, 41),  # a difference of a few percent
        ),
        "awp": Row("`awp` / none, small-cnn", "at most 1.13", awp),
        "memory-small": memory("small-cnn"),
        "memory-preact": memory("preactresnet18"),
        "agreement": Row("fast path - plain fp32, the same seeds", "within noise", agreement),
    }


CPU_ROWS = {
    **_steps_of("small", step_rows("small-cnn", 10, 7, "at most 0.85", "at most 1.05")),
    **_steps_of("preact", step_rows("preactresnet18", 5, 5, "at most 0.85", "at most 1.05")),
    **_common(15, "at most 0.85"),
    "import": Row("`make_scheme` / `import torch`", "at most 1.1", imports),
    "help": Row("`robustlabels --help`", "at most 0.5 s", help_seconds),
}
GPU_ROWS = {
    **_steps_of("small", step_rows("small-cnn", 10, 21, "at most 0.30", "at most 1.10")),
    **_steps_of("preact", step_rows("preactresnet18", 10, 21, "at most 0.30", "at most 1.10")),
    "epoch": Row("epoch of 50,000, ResNet-18, PGD-10, batch 128", "at most 8 s (H100)", epoch),
    **_common(31, "at most 0.20"),
    "syncs": Row("waits for the GPU in 3 steps", "0", syncs),
}
