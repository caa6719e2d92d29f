"""One run shared by several processes: whose rows are whose, and the sums over all of them.

Every process holds the whole model and an even share of each batch; gradients are summed once all
backward passes of a step are done. One flat exchange beside ten passes of an attack needs no
overlap, so there is no wrapper around the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels import processes
from robustlabels.config import Config
from robustlabels.errors import BadValueError
from robustlabels.randomness import Rows
from robustlabels.training.synced_norm import synced

DATA_FACTS = ("data_sha256", "num_outputs", "input_shape", "extra")
"""Of run.json: what tells the data of one run from those of another."""


@dataclass(frozen=True)
class Share:
    """This process' place among those that share a run.

    Attributes:
        rank: from 0; process 0 writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Share:
        """Among those that are joined."""
        return cls(*processes.place())

    @property
    def alone(self) -> bool:
        """Whether this process has all of every batch."""
        return self.count == 1

    def rows(self, total: int, device: torch.device, parts: int = 1) -> tuple[Rows, ...]:
        """The own rows of each of the parts that a batch of ``total`` rows is taken in."""
        return tuple(
            Rows(torch.arange(len(part)).tensor_split(self.count)[self.rank].to(device), len(part))
            for part in torch.arange(total).tensor_split(parts)
        )

    def statistics_of_all(self, model: nn.Module) -> AbstractContextManager[None]:
        """Inside, the model's batch norms use the statistics of whole batches."""
        return nullcontext() if self.alone else synced(model)

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, in all of them."""
        if not self.alone:
            torch.distributed.all_reduce(values)
        return values

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor], flag: Tensor) -> None:
        """Make each gradient the sum over all processes, and the flag true if any process' is.

        Args:
            parameters: the same in all processes; one without a gradient in each keeps none.
            flag: bool (), changed in place.
        """
        if self.alone:
            return
        kinds: dict[torch.dtype, list[Tensor]] = {torch.float32: []}
        for p in parameters:
            kinds.setdefault(p.dtype, []).append(p)
        for dtype, members in kinds.items():
            pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
            # Beside them who has one: weight decay moves a parameter of zero gradient.
            have = [p.grad is not None for p in members]
            marks = torch.tensor([*have, False], dtype=dtype).to(flag.device, non_blocking=True)
            marks[-1] = flag
            sums = self.summed(torch.cat([*(g.flatten() for g in pieces), marks]))
            flag |= sums[-1] > 0
            sizes = [g.numel() for g in pieces]
            parts = [
                s.view_as(g) for s, g in zip(sums.split([*sizes, len(marks)]), pieces, strict=False)
            ]
            if parts:
                torch._foreach_copy_(pieces, parts)
            if not all(have):  # only then a GPU waits
                others = (sums[-len(marks) :] > 0).tolist()
                for p, g, had in zip(members, pieces, others, strict=False):
                    p.grad = g if had else None


ALONE = Share()


def check_shareable(
    config: Config, facts: Mapping[str, Any], learners: Mapping[str, object]
) -> None:
    """A ValueError, in every process, unless all are about to train the same on the same data.

    Args:
        config: resolved.
        facts: what run.json says of the run.
        learners: what may have a state that training changes, by what it is.
    """
    count = processes.place()[1]
    if count == 1:
        return
    processes.check_alike({**config.model_dump(), **{name: facts[name] for name in DATA_FACTS}})
    if facts["train_samples"] < count:
        raise BadValueError(f"{facts['train_samples']} samples are too few for {count} processes")
    for what, thing in learners.items():
        if hasattr(thing, "state_dict") and thing.state_dict():
            raise BadValueError(
                f"the {what} has a state of its own, which each process would change by other "
                "samples: train it in one process"
            )


def put_together(parts: Sequence[Rows]) -> Rows:
    """The own rows of a batch that is taken in parts, as places in the whole batch."""
    starts = [0, *accumulate(part.total for part in parts)]
    own = [part.own + start for part, start in zip(parts, starts, strict=False)]
    return Rows(torch.cat(own), starts[-1])
