"""Several processes that share one job, as torchrun starts them; alone where it did not.

Everything is exchanged on the CPU, by gloo: it is verdicts and images, seldom.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# The slowest process may be at work on its batch for long before the others meet it.
_PATIENCE = datetime.timedelta(days=2)


def place() -> tuple[int, int]:
    """This process' rank, from 0, and how many there are."""
    if "torch" not in sys.modules:  # a command that has not come so far
        return 0, 1
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(mine: T) -> list[T]:
    """Everybody's, by rank; everybody gets it. All must call it."""
    if place()[1] == 1:
        return [mine]
    import torch.distributed as dist

    everybody: list[T | None] = [None] * place()[1]
    dist.all_gather_object(everybody, mine)
    return everybody  # type: ignore[return-value]


def wait_for_all() -> None:
    """Until all have come here."""
    gather(None)


@contextmanager
def joined() -> Iterator[int]:
    """Join the other processes where torchrun started several.

    Yields:
        The local rank: the GPU of this machine to use.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield 0
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield int(os.environ.get("LOCAL_RANK", "0"))
    finally:
        dist.destroy_process_group()
