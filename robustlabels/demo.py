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
    "attack": {"name": "pgd", "steps": 10},
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
    rows: dict[str, dict[str, Any]] = {}
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(news,)
    ) as pool:
        # Adversarial training takes longest, so natural training comes last.
        order = sorted(CONTENDERS, key=lambda c: c.trainer == "standard")
        futures = {pool.submit(_train_and_judge, c, out / "runs" / c.name, seed): c for c in order}
        while not all(f.done() for f in futures):
            _forward(news, progress)
        _forward(news, progress)
        for future, contender in futures.items():
            rows[contender.name] = future.result()
    ordered = [rows[c.name] for c in CONTENDERS]
    return {
        "rows": [row["row"] for row in ordered],
        "dataset": "digits",
        "eps": EPS,
        "norm": "Linf",
        "n": ordered[0]["n"],
        "seed": seed,
        "epochs": EPOCHS,
        "notes": _notes(ordered),
        "curves": {c.name: row["curve"] for c, row in zip(CONTENDERS, ordered, strict=True)},
        "versions": ordered[0]["versions"],
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


def _train_and_judge(contender: Contender, out: Path, seed: int) -> dict[str, Any]:
    """In a worker: one contender, from random weights to its row."""
    from robustlabels.evaluation import evaluate
    from robustlabels.training import fit

    started = time.perf_counter()
    share = 0.3 if contender.trainer != "standard" else 0.1

    def training(done: int, total: int, record: dict[str, Any] | None) -> None:
        if record is not None:
            _NEWS.put((contender.name, share * done / total, f"epoch {record['epoch']}"))

    def judging(done: float, text: str) -> None:
        _NEWS.put((contender.name, share + (1 - share) * done, text))

    trained = fit(
        scheme=contender.labels,
        trainer=contender.trainer,
        seed=seed,
        out=out,
        progress=training,
        **SETTINGS,
    )
    seconds = time.perf_counter() - started
    judged = evaluate(
        trained.model,
        "digits",
        attacks=["pgd", "autoattack"],
        eps=EPS,
        n=TEST_IMAGES,
        seed=seed,
        scheme=trained.scheme,
        evaluations=["accuracy", "calibration", {"name": "audit", "n": AUDITED}],
        progress=judging,
    )
    _NEWS.put((contender.name, 1.0, "done"))
    return {
        "row": {
            "labels": contender.labels["name"],
            "trainer": contender.trainer,
            "clean_accuracy": judged["clean"]["top1"],
            "robust_accuracy": {
                name: found["robust_accuracy"] for name, found in judged["attacks"].items()
            },
            "ece": judged["ece"]["clean"],
            "audit": {key: judged["audit"][key] for key in ("consistent", "verdict", "failed")},
            "seconds": round(seconds, 2),
        },
        "n": judged["n"],
        "curve": [
            {
                "epoch": record["epoch"],
                "clean": record.get("validation_accuracy"),
                "robust": record.get("validation_robust_accuracy"),
            }
            for record in trained.history
        ],
        "flags": judged["attacks"]["autoattack"].get("flags", []),
        "versions": judged["versions"],
    }


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    notes = [
        "Virtual classes (vs) are judged on their first K logits; their AutoAttack figure is what "
        "both AutoAttack on all K+V logits with every target (AA+) and on the first K leave.",
        "A demo, not a benchmark: 8x8 digits, 12 epochs, 64 test images, on which one image is "
        "1.6 points; differences of a few points mean nothing.",
        f"The audit looked at {AUDITED} of these images; it takes 200 to see a lead of 3 points.",
    ]
    for row in rows:
        for flag in row["flags"]:
            notes.append(f"{row['row']['labels']}, {row['row']['trainer']}: AutoAttack: {flag}")
    return notes
