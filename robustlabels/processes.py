"""Several processes that share one job, as torchrun starts them; alone where it did not.

What an evaluation exchanges goes over the CPU, by gloo: it is verdicts and images, seldom. Training
adds gradients, on the device: Accelerate joins the processes and gives each its GPU.
"""

from __future__ import annotations

import atexit
import datetime
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from robustlabels.errors import BadValueError, RobustLabelsWarning, missing_extra

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")

# The slowest process may be at work on its batch for long before the others meet it.
_PATIENCE = datetime.timedelta(days=2)


def started() -> int:
    """How many processes torchrun has started, joined yet or not; 1 without it."""
    if "RANK" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def left_to_first() -> bool:
    """Leave work that is not shared to the first of torchrun's processes, which does it alone.

    Returns:
        Whether it is left to another one: here is nothing to do.
    """
    if started() == 1:
        return False
    if os.environ["RANK"] != "0":
        return True
    del os.environ["RANK"]  # from now on, here and in its children: nobody to wait for
    return False


def place() -> tuple[int, int]:
    """This process' rank, from 0, and how many there are."""
    if "torch" not in sys.modules:  # a command that has not come so far
        return 0, 1
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return place()[0] == 0


def on_one_machine() -> bool:
    """Whether all processes run on this machine, as far as their starter says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", place()[1])) == place()[1]


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


def first_only(job: Callable[[], T]) -> T:
    """What the first process' job gives; its error is everybody's. All must call it.

    Args:
        job: called in the first process alone; its result must pickle.
    """
    if place()[1] == 1:
        return job()
    import torch.distributed as dist

    found: list[Any] = [None, None]
    if is_first():
        try:
            found[0] = job()
        except Exception as error:
            found[1] = error
    dist.broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    result: T = found[0]
    return result


def check_alike(facts: Mapping[str, Any]) -> None:
    """A BadValueError in every process if a fact is not the same in all. All must call it."""
    everybody = gather(dict(facts))
    for name, first in everybody[0].items():
        for other in everybody:
            if other[name] != first:
                raise BadValueError(
                    f"{name} is not the same in all processes ({str(first)[:60]}, and "
                    f"{str(other[name])[:60]}): give each the same settings and the whole data, "
                    "for batches are shared out here"
                )


def copy_first(model: nn.Module) -> None:
    """Give every process the first one's parameters and buffers. All must call it."""
    if place()[1] == 1:
        return
    import torch.distributed as dist

    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor.detach(), 0)


@contextmanager
def joined() -> Iterator[int]:
    """Join the other processes where torchrun started several; on the CPU only.

    Yields:
        The local rank: the GPU of this machine to use.
    """
    if started() == 1:
        yield 0
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield int(os.environ.get("LOCAL_RANK", "0"))
    finally:
        dist.destroy_process_group()


def join(device: str) -> None:
    """Join the others for good where torchrun started several; after it ``place()`` knows them.

    Tensors on GPUs are exchanged by nccl, all else by gloo, and "cuda" is this process' GPU. A
    process group that is there already is taken as it is.

    Args:
        device: as a config names it: "auto", "cpu", "cuda".

    Raises:
        ValueError: the device is one GPU, which not all processes can have, or there are fewer
            GPUs than processes. MissingExtraError: there is no Accelerate.
    """
    if started() == 1 and place()[1] == 1:
        return
    if device.startswith("cuda:"):
        raise BadValueError(
            f"device {device!r} is one GPU, and there are {started()} processes: set cuda, and "
            "each takes its own"
        )
    if not is_first():
        warnings.simplefilter("ignore", RobustLabelsWarning)
    if place()[1] > 1:
        return
    import torch

    try:
        from accelerate import PartialState
    except ImportError:
        raise missing_extra("training in several processes", "distributed") from None
    if device == "cpu" or not torch.cuda.is_available():
        PartialState(cpu=True, timeout=_PATIENCE)
    else:
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if here > gpus:  # nccl refuses later, in its own words
            raise BadValueError(
                f"{here} processes on this machine and {gpus} GPUs: start one for each GPU, or "
                "set device=cpu"
            )
        PartialState(backend="cpu:gloo,cuda:nccl", timeout=_PATIENCE)
    atexit.register(_leave)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Inside, a process that fails takes no leave of the others when it ends.

    nccl's leave waits for all, and they may be waiting for this one's share of a sum. Without it
    torch breaks the connections off, and torchrun ends the others.
    """
    try:
        yield
    except BaseException:
        atexit.unregister(_leave)
        raise


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
