"""Whose rows are whose, and whose random numbers: what several processes do is what one does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustlabels import make_scheme, processes
from robustlabels.attacks import PGD
from robustlabels.data import TensorSplit
from robustlabels.data.extra import ExtraData
from robustlabels.errors import BadValueError, MissingExtraError
from robustlabels.randomness import drawing_for, normal_like
from robustlabels.training.augmentation import augment
from robustlabels.training.batching import Batch, Batches
from robustlabels.training.extra import Extra
from robustlabels.training.randaugment import rand_augment
from robustlabels.training.sharing import Share
from robustlabels.training.step import Step
from robustlabels.training.temperature import TemperatureSearch, search_temperature
from robustlabels.training.watch import LossWatch

CPU = torch.device("cpu")


def start(norm: str, kind: str) -> Callable[[Tensor, torch.Generator], Tensor]:
    def drawn(x: Tensor, _: torch.Generator) -> Tensor:
        class Flat(torch.nn.Module):
            def forward(self, z: Tensor) -> Tensor:
                return 0 * z.flatten(1)  # no gradient: the start is what comes out

        attack = PGD(0.1, norm, steps=1, step_size=1e-9, start=kind)
        return attack(Flat(), x, torch.zeros(len(x), dtype=torch.int64))

    return drawn


def weights_of_virtual(x: Tensor, _: torch.Generator) -> Tensor:
    scheme = make_scheme("vs", 3, virtual_mass="random")
    return scheme.labels(torch.zeros(len(x), dtype=torch.int64), logits=torch.zeros(len(x), 6))


DRAWS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "linf": start("Linf", "uniform"),
    "l2": start("L2", "uniform"),
    "trades": start("Linf", "gaussian"),
    "crop and flip": lambda x, g: augment(x, 2, True, g),
    "randaugment": lambda x, g: rand_augment(x, 2, 9, g),
    "alps": lambda x, g: (
        make_scheme("alps", 3).perturb(x, torch.zeros(len(x), dtype=torch.int64), g)[1].lam
    ),
    "vs": weights_of_virtual,
}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_those_of_the_whole_batch(name: str, channels_last: bool) -> None:
    """The same noise in each process would be repeated noise; noise of its own, another run."""
    x = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(5))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    whole = DRAWS[name](x, torch.Generator().manual_seed(2))
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 7
    for rank in range(3):
        (rows,) = Share(rank, 3).rows(7, CPU)
        torch.manual_seed(100 + rank)  # a process' own, which nothing here may draw from
        with drawing_for(rows, torch.Generator().manual_seed(1)):
            mine = DRAWS[name](x[rows.own], torch.Generator().manual_seed(2))
        assert torch.equal(mine, whole[rows.own])


def test_one_coefficient_of_mixup_and_partners_at_hand() -> None:
    """A batch has one lambda, also where processes share it; partners are this process' images."""
    x, y = torch.rand(7, 1, 2, 2), torch.arange(7) % 3
    lams = set()
    for rank in range(3):
        (rows,) = Share(rank, 3).rows(7, CPU)
        with drawing_for(rows, torch.Generator()):
            _, mix = make_scheme("mixup", 3).perturb(
                x[rows.own], y[rows.own], torch.Generator().manual_seed(2)
            )
        assert sorted(mix.partner.tolist()) == list(range(len(rows.own)))
        lams |= set(mix.lam.tolist())
    assert len(lams) == 1


def test_other_batches_are_drawn_for_as_ever() -> None:
    """An attack on other images than the batch's must not be handed the batch's rows."""
    (rows,) = Share(0, 2).rows(8, CPU)
    torch.manual_seed(0)
    expected = torch.randn(3, 2)
    torch.manual_seed(0)
    with drawing_for(rows, torch.Generator()):
        assert torch.equal(normal_like(torch.empty(3, 2)), expected)


def batches(share: Share, kind: str, accumulate: int, n: int = 55, size: int = 24) -> list[Batch]:
    split = TensorSplit(torch.arange(60.0).view(60, 1, 1, 1), torch.arange(60) % 3)
    extra = None
    if kind != "none":
        outliers = TensorSplit(100 + torch.arange(20.0).view(20, 1, 1, 1), torch.arange(20) % 3)
        data = ExtraData("more", outliers, (1, 1, 1), labelled=True)
        extra = Extra(data, mixed=kind == "mixed", main=size - 9, count=9)
        size -= 9
    made = Batches(split, torch.arange(n), size, 0, CPU, extra, share, accumulate)
    return [b for epoch in range(2) for b in made.rest_of_epoch(epoch * made.per_epoch + epoch)]


def contents(batch: Batch) -> list[tuple[float, ...]]:
    columns = (batch.x.flatten(), batch.y, batch.index)
    found = list(zip(*(t.tolist() for t in columns), strict=True))
    if batch.extra is not None and batch.extra.y is not None:
        more = batch.extra.x.flatten(), batch.extra.y, batch.extra.index
        found += list(zip(*(t.tolist() for t in more), strict=True))
    return found


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kind", ["none", "mixed", "beside"])
def test_shares_are_the_batch(kind: str, accumulate: int, count: int) -> None:
    """A sample that two processes see, or none, or in another part of the batch than alone."""
    whole = batches(Share(), kind, accumulate)
    shares = [batches(Share(rank, count), kind, accumulate) for rank in range(count)]
    assert {len(s) for s in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        parts = list(batch.parts(accumulate))
        theirs = [list(share[number].parts(accumulate)) for share in shares]
        assert {len(p) for p in theirs} == {len(parts)} == {accumulate}
        for i, part in enumerate(parts):
            mine = [p[i] for p in theirs]
            assert sorted(row for m in mine for row in contents(m)) == sorted(contents(part))
            sizes = [len(m.x) for m in mine]
            assert max(sizes) - min(sizes) <= 1
            for m in mine:
                assert m.own is not None
                assert m.own.total == len(part.x)
                assert torch.equal(part.x[m.own.own], m.x), "its rows are where it says"
        for share in shares:
            own = share[number].own
            assert own is not None
            assert torch.equal(batch.x[own.own], share[number].x)
            assert share[number].total == len(batch.x)


def test_a_last_batch_that_leaves_a_process_empty_is_left_out() -> None:
    """One that has nothing to do makes no passes, and the others wait for it in batch norm."""
    assert [len(b.x) for b in batches(Share(), "none", 1, n=26)][:2] == [24, 2]
    for rank in range(3):
        assert {len(b.x) for b in batches(Share(rank, 3), "none", 1, n=26)} == {8}


def test_sums_of_parts_are_the_sum_of_the_batch() -> None:
    """Where the loss is a sum (ART), each part's mean KL would count whole: of two parts, twice."""
    p, q = torch.randn(2, 8, 3, dtype=torch.float64)

    def step(rows: slice, **options: Any) -> Step:
        y = torch.zeros(len(p[rows]), dtype=torch.int64)
        return Step(
            model=torch.nn.Identity(),
            x=p[rows],
            y=y,
            scheme=make_scheme("one-hot", 3),
            attack=lambda _, x, __: x,
            reduction="sum",
            **options,
        )

    whole = step(slice(0, 8)).kl(p, q)
    cuts = [slice(a, b) for a, b in pairwise((0, 5, 8))]
    parts = [step(c, share=len(p[c]) / 8).kl(p[c], q[c]) for c in cuts]
    torch.testing.assert_close(sum(parts), whole)


def test_no_process_decides_alone_that_the_loss_is_broken() -> None:
    """It would stop, and the others wait for it."""
    watch = LossWatch(CPU, alone=False)
    assert not watch.saw(torch.tensor(float("nan")))
    assert watch.due()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun starts the first of two."""
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)


def test_what_several_processes_cannot_do(
    started: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One line before they wait for each other: one GPU for all, no Accelerate, a search whose
    trials would not be the same in each."""
    with pytest.raises(BadValueError, match="'cuda:1' is one GPU, and there are 2 processes"):
        processes.join("cuda:1")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'robustlabels\[distributed\]'"):
        processes.join("cpu")
    with pytest.raises(BadValueError, match="in one process"):
        search_temperature(TemperatureSearch(teacher=tmp_path, epochs=1), tmp_path)


def test_more_processes_than_gpus(started: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """nccl says it after the data are read, in twenty lines for each process."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadValueError, match="2 processes on this machine and 1 GPU"):
        processes.join("auto")


def test_one_process_needs_no_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra, and its import takes time."""
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")  # SLURM sets it for jobs that are none of torchrun's
    processes.join("auto")
    assert processes.place() == (0, 1)
