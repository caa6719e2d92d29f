"""Devices by name, and models on them for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from robustlabels.errors import BadValueError


def named_device(name: str | torch.device) -> torch.device:
    """A device that is there.

    Args:
        name: "cpu", "cuda", "cuda:1" ...; "auto" is a GPU if there is one.

    Raises:
        ValueError: it is no device, or not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadValueError(f"device {name!r} is not available: {why}") from None
    return device


@contextmanager
def on_device(model: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """The model on a device for a while; None leaves it where it is."""
    before = next((p.device for p in model.parameters()), None)
    try:
        if device is not None:
            model.to(named_device(device))
        yield
    finally:
        if device is not None and before is not None:
            model.to(before)
