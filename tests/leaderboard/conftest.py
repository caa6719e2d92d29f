"""What the tests of the leaderboard share: the packed snapshot, checkouts and evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustlabels.leaderboard import Snapshot, read_snapshot

SHARED = Path(__file__).parents[3] / "shared" / "robustbench"


@pytest.fixture(scope="session")
def packed() -> Snapshot:
    return read_snapshot()


@pytest.fixture
def shared() -> Path:
    """RobustBench's 236 published files of 2025-03-31."""
    if not (SHARED / "model_info").is_dir():
        pytest.skip(f"needs RobustBench's model_info in {SHARED}")
    return SHARED


@pytest.fixture
def checkout(tmp_path: Path) -> Callable[..., Path]:
    """Writes a checkout of one good entry, changed as asked, and of other files."""
    good = {
        "name": "A title",
        "authors": "A. Author",
        "venue": "ICML 2024",
        "link": "https://example.org/?a=1&note=2",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "architecture": "WideResNet-28-10",
        "eps": "8/255",
        "clean_acc": "90.10",
        "reported": "",
        "autoattack_acc": "60.70",
        "unreliable": False,
    }

    def write(changes: dict[str, Any] | None = None, **files: str) -> Path:
        folder = tmp_path / "checkout" / "model_info" / "cifar10" / "Linf"
        folder.mkdir(parents=True, exist_ok=True)
        facts = {**good, **(changes or {})}
        facts = {k: v for k, v in facts.items() if v is not ...}
        (folder / "Good.json").write_text(json.dumps(facts))
        for name, text in files.items():
            (folder / f"{name}.json").write_text(text)
        return tmp_path / "checkout"

    return write


@pytest.fixture
def evaluation() -> Callable[..., dict[str, Any]]:
    """An evaluation as ``evaluate`` writes it, on all of CIFAR-10, that is beyond reproach but for
    its checkpoint, of which it says nothing; changed as asked."""

    def make(robust: float = 0.57, eps: float = 8 / 255, **changes: Any) -> dict[str, Any]:
        attack = {
            "robust_accuracy": robust,
            "params": {"eps": eps, "norm": "Linf", "version": "standard", "seed": 0},
            "seconds": 1.0,
            "per_attack": {"apgd-ce": 0.6, "apgd-t": 0.58, "fab-t": 0.58, "square": robust},
            "flags": [],
            "eps_bounded": True,
            "max_perturbation": eps,
        }
        facts = {
            "clean": {"top1": 0.85, "top5": 0.99},
            "attacks": {"autoattack": attack},
            "robust_accuracy": robust,
            "n": 10_000,
            "indices": list(range(10_000)),
            "dataset": "cifar10",
            "note": "",
            "eps": eps,
            "norm": "Linf",
            "num_classes": 10,
            "virtual_classes": 0,
            "audit": {"consistent": True, "verdict": "consistent"},
        }
        return {**facts, **changes}

    return make
