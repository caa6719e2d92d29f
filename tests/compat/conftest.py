"""AutoAttack's own code with a small budget: what is tested is what stands around it."""

from __future__ import annotations

from typing import Any

import pyautoattack
import pytest


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every version of pyautoattack is APGD-CE, APGD-T and Square of a few steps."""

    def set_version(self: Any, version: str = "standard") -> None:
        self.attacks_to_run = ["apgd-ce", "apgd-t", "square"]
        for apgd in (self.apgd, self.apgd_targeted):
            apgd.n_restarts, apgd.n_iter = 1, 10
        self.apgd_targeted.n_target_classes = 2
        self.square.n_queries = 30

    monkeypatch.setattr(pyautoattack.AutoAttack, "_set_version", set_version)
