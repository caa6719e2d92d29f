"""The code in docs/plugins.md, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import robustlabels as rl
from robustlabels.hookspecs import HOOKS

TEXT = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text()


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(block, names)
    return names


def test_the_scheme(shown: dict[str, Any]) -> None:
    """A plugin author starts from this scheme: wrong labels here would be copied."""
    registered: dict[str, Any] = {}
    shown["register_schemes"](registered.__setitem__)
    scheme = registered["shy"](num_classes=3, alpha=0.2)
    q = scheme.labels(torch.tensor([0, 2]), logits=torch.tensor([[5.0, 1, 2], [0, 3, 1]]))
    assert torch.allclose(q, torch.tensor([[0.8, 0, 0.2], [0, 0.2, 0.8]]))


def test_both_train_together(shown: dict[str, Any]) -> None:
    """The trainer and the scheme of the page must run in the engine without our base classes."""
    x, y = torch.rand(24, 1, 4, 4), torch.arange(24) % 3
    result = rl.fit(
        {"name": "mlp", "hidden": [8]},
        (x, y),
        scheme=shown["Shy"](num_classes=3),
        trainer=shown["HalfHalf"](),
        eps=0.1,
        epochs=1,
    )
    assert result.history[0]["train_loss"] > 0


def test_every_hook_is_listed() -> None:
    """A hook that the page leaves out is a hook that nobody uses."""
    assert set(re.findall(r"^\| `(register_\w+)\(register\)`", TEXT, re.MULTILINE)) == set(
        HOOKS.values()
    )
