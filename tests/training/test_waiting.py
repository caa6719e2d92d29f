"""No step asks for a number that the device has not computed yet: on a GPU that would be a wait."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustlabels import list_schemes
from robustlabels.labels import set_value_checks
from robustlabels.training.assembly import assemble
from robustlabels.training.request import read_request

# What copies a value to the host, or makes a shape of one.
WAITS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::_unique2",
}


class Watch(TorchDispatchMode):
    """Writes down the operations that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0]
        if name in WAITS:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def waits(data: Any, scheme: Any, trainer: str, *, checked: bool = False, **options: Any) -> list:
    """Those of the second step."""
    if scheme in ("ltd",):
        torch.manual_seed(0)
        options["teacher"] = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    config, given = read_request(
        model, data, scheme, trainer, None, options.pop("teacher", None), 3,
        epochs=2, batch_size=16, validation=0, device="cpu", **options,
    )  # fmt: skip
    engine = assemble(config, given, 3).engine
    set_value_checks(engine.scheme, checked)
    engine._losses._every = 1000  # on a CPU it looks at each loss, for there looking is free
    first, second = list(engine._batches.rest_of_epoch(0))[:2]
    engine._stepper.take(first, 0)
    with Watch() as watch:
        engine._stepper.take(second, 1)
    return watch.seen


@pytest.mark.parametrize("trainer", ["pgd-at", "trades", "mart", "fast-at", "standard"])
@pytest.mark.parametrize("scheme", [n for n in list_schemes() if ":" not in n])
def test_no_step_waits(tiny: Any, scheme: str, trainer: str) -> None:
    """One ``.item()`` in a step, or a check of values, and the host can no longer run ahead of
    the GPU: small nets take several times as long."""
    assert waits(tiny, scheme, trainer) == []


@pytest.mark.parametrize(
    "options",
    [
        {"awp": {}},
        {"weight_averaging": 0.99},
        {"augment": {"crop_padding": 1, "flip": True}},
        {"accumulate": 2, "optimizer": {"clip_grad_norm": 1.0}},
    ],
    ids=lambda o: next(iter(o)),
)
def test_no_option_waits(tiny: Any, options: dict[str, Any]) -> None:
    """As above, for what a run may add to a step."""
    assert waits(tiny, "vs", "pgd-at", **options) == []


def test_the_watch_sees_a_wait(tiny: Any) -> None:
    """The tests above prove nothing where this one finds nothing."""
    assert waits(tiny, "als", "pgd-at", checked=True) != []
