"""Two real processes (gloo): batch norm over both parts of a batch, and sums of gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

WORKER = Path(__file__).with_name("two_processes.py")


def cases() -> list[tuple[nn.Module, torch.Tensor, torch.Tensor, list[slice]]]:
    generator = torch.Generator().manual_seed(0)
    norms = [
        nn.BatchNorm2d(3).double(),
        nn.BatchNorm1d(3, momentum=None).double(),
        nn.BatchNorm2d(3, affine=False, track_running_stats=False).double(),
        nn.BatchNorm3d(3).double(),
        BatchNormAct2d(3).double(),  # with a forward of its own
        nn.BatchNorm2d(3),
    ]
    shapes = [(8, 3, 2, 2), (8, 3), (8, 3, 2, 2), (8, 3, 2, 1, 2), (8, 3, 2, 2), (8, 3, 2, 2)]
    found = []
    for norm, shape in zip(norms, shapes, strict=True):
        like = next(norm.parameters(), torch.empty(0, dtype=torch.float64))
        # Far from 0: the square of the mean swamps the variance of a careless formula.
        x = 50 + 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
        weights = torch.randn(shape, generator=generator, dtype=torch.float64)
        for p in norm.parameters():
            p.data.copy_(torch.rand(3, generator=generator) + 0.5)
        found.append((norm, x.to(like.dtype), weights.to(like.dtype), [slice(0, 5), slice(5, 8)]))
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the two processes found, by rank."""
    folder = tmp_path_factory.mktemp("two")
    torch.save(cases(), folder / "batch.pt")
    started = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(folder)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("number", range(len(cases())))
def test_batch_norm_is_that_of_the_whole_batch(both: list[dict[str, Any]], number: int) -> None:
    """Statistics of the own 5 or 3 of 8 samples would train another model than one process does:
    outputs, gradients of inputs and parameters, and running statistics are autograd's own."""
    norm, x, weights, rows = cases()[number]
    x.requires_grad_()
    for _ in range(2):
        y = norm(x)
    (y * weights).sum().backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if x.dtype == torch.float32 else {}
    for found, own in zip((b["norms"][number] for b in both), rows, strict=True):
        torch.testing.assert_close(found["y"], y[own].detach(), **tolerance)
        torch.testing.assert_close(found["x"], x.grad[own], **tolerance)
        for mine, theirs in zip(found["parameters"], norm.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs.grad, **tolerance)
        for name, buffer in norm.named_buffers():
            torch.testing.assert_close(found["buffers"][name], buffer, **tolerance)
        assert found["kind"] == type(norm).__module__, "the layer is what it was"


def test_no_layer_makes_a_gpu_wait(both: list[dict[str, Any]]) -> None:
    """106 waits in a step of ResNet-50 under TRADES would leave nothing to launch ahead."""
    for found in both:
        assert "aten::var_mean.correction" in found["operators"]
        assert not {"aten::lift_fresh", "aten::_local_scalar_dense"} & set(found["operators"])


def test_nothing_is_exchanged_in_eval_mode(both: list[dict[str, Any]]) -> None:
    """Not by a layer without running statistics either: the last batch of a validation may be too
    small for all, and who has none of it would be waited for."""
    norm, x, _, rows = cases()[2]
    torch.testing.assert_close(both[0]["alone"], norm.eval()(x[rows[0]]))


def test_gradients_are_summed(both: list[dict[str, Any]]) -> None:
    """One process' gradient would make the copies of the model drift apart; a parameter that
    nobody has a gradient of must keep none, or weight decay would move it."""
    for found in both:
        shared, only_second, idle, wide = found["sums"]
        assert torch.equal(shared, torch.full((2, 2), 3.0))
        assert torch.equal(only_second, torch.eye(2))
        assert idle is None
        assert torch.equal(wide, torch.ones(3, dtype=torch.float64))
        assert not found["flag"]


def test_a_broken_loss_is_everybodys(both: list[dict[str, Any]]) -> None:
    """A process that stops alone leaves the others waiting for ever."""
    assert [found["flag"] for b in both for found in b["norms"]] == [True] * (2 * len(cases()))
