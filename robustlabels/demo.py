"""The demo: a few label schemes on the embedded digits, trained, attacked and compared.

Two single-threaded worker processes do the work; this process only collects, so it never
imports torch.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EPS = 0.12
EPOCHS = 12
TEST_IMAGES = 64
AUDITED = 32
WORKERS = 2
SETTINGS: dict[str, Any] = {
    "model": {"name": "small-cnn", "width": 16},
    "data": "digits",
    "eps": EPS,
    "epochs": EPOCHS,
    "batch_size": 128,
    "optimizer": {"lr": 0.1},
    "schedule": {"name": "cyclic"},
    "channels_last": True,
    "validate_every": 2,
}


@dataclass(frozen=True)
class Contender:
    """A model of the demo: which labels, which trainer."""

    labels: dict[str, Any]
    trainer: str

    @property
    def name(self) -> str:
        """For progress bars and folders."""
        return f"{self.labels['name']}-{self.trainer}"


CONTENDERS = (
    Contender({"name": "one-hot"}, "standard"),
    Contender({"name": "one-hot"}, "pgd-at"),
    Contender({"name": "sls", "alpha": 0.1}, "pgd-at"),
    Contender({"name": "vs", "alpha": 0.5}, "pgd-at"),
    # Twelve epochs are far from ADR's 200: the teacher must follow faster, and be sharper.
    Contender({"name": "adr", "temperature": (1.0, 0.5), "ema_decay": 0.9}, "pgd-at"),
)
COLUMNS = (
    "labels",
    "trainer",
    "clean_accuracy",
    "robust_accuracy",
    "ece",
    "audit",
    "seconds",
)
SHARES = {"train": (0.0, 0.3), "attack": (0.3, 0.87), "audit": (0.87, 1.0)}
"""Of a contender's time, about."""
Progress = Callable[[str, float, str], None]


def run_demo(out: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Train and judge every contender, each on the same test images.

    Args:
        out: an existing folder; each contender's RUN goes into ``out/runs``.
        seed: of training, the choice of test images and the attacks.
        progress: called with (contender, share done in [0, 1], what it is doing).

    Returns:
        What results.json holds.
    """
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    workers = min(WORKERS, os.cpu_count() or 1)
    found: dict[str, dict[str, Any]] = {c.name: {} for c in CONTENDERS}
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(news,)
    ) as pool:

        def begin(contender: Contender, stage: int) -> concurrent.futures.Future[dict[str, Any]]:
            run = out / "runs" / contender.name
            return pool.submit(STAGES[stage], contender, run, seed)

        # Stage by stage, so that both workers have something to do until the end.
        under_way = {begin(c, 0): (c, 0) for c in CONTENDERS}
        while under_way:
            _forward(news, progress)
            for future in [f for f in under_way if f.done()]:
                contender, stage = under_way.pop(future)
                found[contender.name] |= future.result()
                if stage + 1 < len(STAGES):
                    under_way[begin(contender, stage + 1)] = (contender, stage + 1)
        _forward(news, progress)
    rows = list(found.values())
    return {
        "rows": [{name: row[name] for name in COLUMNS} for row in rows],
        "dataset": "digits",
        "eps": EPS,
        "norm": "Linf",
        "n": rows[0]["n"],
        "seed": seed,
        "epochs": EPOCHS,
        "notes": _notes(rows),
        "curves": {name: row["curve"] for name, row in found.items()},
        "versions": rows[0]["versions"],
    }


_NEWS: Any = None


def _start_worker(news: Any) -> None:
    global _NEWS  # noqa: PLW0603 (the way to hand a queue to a pool's workers)
    _NEWS = news
    import torch

    torch.set_num_threads(1)


def _forward(news: Any, progress: Progress) -> None:
    try:
        while True:
            progress(*news.get(timeout=0.1))
    except queue.Empty:
        return


def _train(contender: Contender, run: Path, seed: int) -> dict[str, Any]:
    """In a worker: from random weights to a RUN."""
    from robustlabels.training import fit

    started = time.perf_counter()

    def tell(done: int, total: int, record: dict[str, Any] | None) -> None:
        if record is not None:
            _tell(contender, "train", done / total, f"epoch {record['epoch']}")

    trained = fit(
        scheme=contender.labels,
        trainer=contender.trainer,
        seed=seed,
        out=run,
        progress=tell,
        **SETTINGS,
    )
    return {
        "labels": contender.labels["name"],
        "trainer": contender.trainer,
        "seconds": round(time.perf_counter() - started, 2),
        "curve": [
            {
                "epoch": record["epoch"],
                "clean": record.get("validation_accuracy"),
                "robust": record.get("validation_robust_accuracy"),
            }
            for record in trained.history
        ],
    }


def _attack(contender: Contender, run: Path, seed: int) -> dict[str, Any]:
    """In a worker: how accurate a RUN's model is, and what the attacks leave of that."""
    judged = _judged(
        contender, run, seed, "attack", ["pgd", "autoattack"], ["accuracy", "calibration"]
    )
    return {
        "clean_accuracy": judged["clean"]["top1"],
        "robust_accuracy": {
            name: figures["robust_accuracy"] for name, figures in judged["attacks"].items()
        },
        "ece": judged["ece"]["clean"],
        "n": judged["n"],
        "flags": judged["attacks"]["autoattack"].get("flags", []),
        "versions": judged["versions"],
    }


def _audit(contender: Contender, run: Path, seed: int) -> dict[str, Any]:
    """In a worker: a short audit of a RUN's model."""
    found = _judged(contender, run, seed, "audit", [], [{"name": "audit", "n": AUDITED}])["audit"]
    return {"audit": {key: found[key] for key in ("consistent", "verdict", "failed")}}


STAGES = (_train, _attack, _audit)


def _judged(
    contender: Contender, run: Path, seed: int, stage: str, attacks: list[Any], evaluations: Any
) -> dict[str, Any]:
    from robustlabels.evaluation import evaluate
    from robustlabels.loading import load_run
    from robustlabels.models import real_classes

    loaded = load_run(run)
    return evaluate(
        real_classes(loaded.model, loaded.scheme),
        "digits",
        attacks=attacks,
        eps=EPS,
        n=TEST_IMAGES,
        seed=seed,
        evaluations=evaluations,
        progress=lambda done, text: _tell(contender, stage, done, text),
    )


def _tell(contender: Contender, stage: str, done: float, text: str) -> None:
    begin, end = SHARES[stage]
    finished = end == 1 and done == 1
    _NEWS.put((contender.name, begin + (end - begin) * done, "done" if finished else text))


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    notes = [
        "Virtual classes (vs) are judged on their first K logits; AutoAttack on all K+V logits "
        "with every target (AA+) was left out here: robustlabels evaluate has it.",
        f"A demo, not a benchmark: 8x8 digits, {EPOCHS} epochs, {TEST_IMAGES} test images, on "
        f"which one image is {100 / TEST_IMAGES:.1f} points; differences of a few points mean "
        "nothing.",
        f"The audit looked at {AUDITED} of these images; it takes 200 to see a lead of 3 points.",
    ]
    for row in rows:
        for flag in row["flags"]:
            notes.append(f"{row['labels']}, {row['trainer']}: AutoAttack: {flag}")
    return notes
