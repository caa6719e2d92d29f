"""What the other tests take for granted."""

from __future__ import annotations

import torch


def test_one_thread() -> None:
    """Run without tests/, whose conftest said so, they took every core, against each other."""
    assert torch.get_num_threads() == 1
