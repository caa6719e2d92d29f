"""What must hold for every scheme, on any batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlabels.labels import (
    AdversarialLabelling,
    AdversarialLabelSmoothing,
    AnnealingRectification,
    BoltzmannLabelSmoothing,
    LabelSmoothing,
    LowTemperatureDistillation,
    Mix,
    MixUp,
    OneHot,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
    VirtualSmoothing,
)

Make = Callable[..., Any]

PLAIN: dict[str, Make] = {
    "one-hot": lambda k, a, t: OneHot(k),
    "ls": lambda k, a, t: LabelSmoothing(k, a),
    "sls": lambda k, a, t: StandardLabelSmoothing(k, a),
    "als": lambda k, a, t: AdversarialLabelSmoothing(k, a),
    "bls": BoltzmannLabelSmoothing,
    "bls on probabilities": lambda k, a, t: BoltzmannLabelSmoothing(k, a, t, "probabilities"),
    "sbls": lambda k, a, t: SecondBestLabelSmoothing(k, a),
    "ltd": lambda k, a, t: LowTemperatureDistillation(k, t),
    "adr": lambda k, a, t: AnnealingRectification(k, (t, t / 2), (a, 1.0)),
    "alps": lambda k, a, t: AdversarialLabelling(k, a),
    "mixup": lambda k, a, t: MixUp(k),
}


def _around(make: Make) -> Make:
    return lambda k, a, t: VirtualSmoothing(k, a, virtual_classes=3, inner=make(k, a, t))


SCHEMES = PLAIN | {f"vs around {name}": _around(make) for name, make in PLAIN.items()}
every_scheme = pytest.mark.parametrize("make", SCHEMES.values(), ids=SCHEMES)


class Batch:
    """A random batch for a scheme: y, logits with ties, teacher, mix, progress."""

    def __init__(self, scheme: Any, n: int, seed: int, dtype: torch.dtype, scale: float) -> None:
        g = torch.Generator().manual_seed(seed)
        k, width = scheme.num_classes, scheme.num_outputs
        self.scheme = scheme
        self.y = torch.randint(k, (n,), generator=g)
        # Whole numbers below scale 1: many ties.
        self.logits = (torch.randn(n, width, generator=g) * scale).round().to(dtype)
        self.teacher = (torch.randn(n, width, generator=g) * scale).to(dtype)
        partner = torch.randperm(n, generator=g)
        self.mix = Mix(torch.rand(n, generator=g), partner, self.y[partner])
        self.progress = torch.rand((), generator=g).item()

    def labels(self, rows: torch.Tensor | slice = slice(None), **changed: Any) -> torch.Tensor:
        """The scheme's labels of some rows."""
        scheme, mix = self.scheme, self.mix
        extra: dict[str, Any] = {"logits": self.logits, "teacher_logits": self.teacher} | changed
        extra = {name: t[rows] for name, t in extra.items() if t is not None}
        if "mix" in scheme.needs:
            assert mix.labels is not None
            extra["mix"] = Mix(mix.lam[rows], mix.partner[rows], mix.labels[rows])
        return scheme.labels(self.y[rows], progress=self.progress, **extra)


def assert_distributions(q: torch.Tensor, n: int, width: int, tol: float) -> None:
    assert q.shape == (n, width)
    assert q.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(q).all()
    assert (q >= 0).all()
    assert (q.sum(1) - 1).abs().le(tol).all()
    assert not q.requires_grad


shares = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
temperatures = st.floats(1e-3, 1e3)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@every_scheme
@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(2, 12),
    n=st.integers(0, 6),
    alpha=shares,
    temperature=temperatures,
    dtype=dtypes,
    scale=st.sampled_from([0.4, 3.0, 100.0]),
    seed=st.integers(0, 2**31),
)
def test_rows_are_distributions_and_samples_dont_mix(
    make: Make,
    *,
    k: int,
    n: int,
    alpha: float,
    temperature: float,
    dtype: torch.dtype,
    scale: float,
    seed: int,
) -> None:
    """A label off the simplex changes the learning rate; one that depends on its neighbours in the
    batch makes gradient accumulation and DDP train another model."""
    scheme = make(k, alpha, temperature)
    batch = Batch(scheme, n, seed, dtype, scale)
    q = batch.labels()
    assert_distributions(q, n, scheme.num_outputs, 1e-12 if dtype == torch.float64 else 1e-6)
    assert q.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(batch.labels(order), q[order])
    for row in range(n):
        torch.testing.assert_close(batch.labels(slice(row, row + 1))[0], q[row])


@every_scheme
@pytest.mark.parametrize("k", [2, 1000])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_two_classes_and_a_thousand(make: Make, k: int, dtype: torch.dtype) -> None:
    """Two classes leave one other class; a thousand are ImageNet."""
    scheme = make(k, 0.3, 0.5)
    q = Batch(scheme, 5, 0, dtype, 4.0).labels()
    assert_distributions(q, 5, scheme.num_outputs, 1e-12 if dtype == torch.float64 else 1e-5)


@every_scheme
def test_no_gradient_flows(make: Make) -> None:
    """Goibert's code lets gradients through its labels: the model could then lower its loss by
    moving the target. The inputs must come out untouched as well."""
    batch = Batch(make(4, 0.3, 0.5), 6, 1, torch.float32, 3.0)
    plain = batch.labels()
    logits = batch.logits.clone().requires_grad_()
    teacher = batch.teacher.clone().requires_grad_()
    # * 1: also for tensors inside of a graph, where an in-place change would break backward
    q = batch.labels(logits=logits * 1, teacher_logits=teacher * 1)
    assert q.grad_fn is None
    assert not q.requires_grad
    assert torch.equal(q, plain)
    assert torch.equal(logits, batch.logits)
    with torch.enable_grad():  # the caller's mode is restored
        assert torch.is_grad_enabled()
        batch.labels(logits=logits)
        assert torch.is_grad_enabled()


@every_scheme
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_autocast_changes_nothing(make: Make, dtype: torch.dtype) -> None:
    """In bfloat16 a label of .1 / 9 is off by 1 % and rows no longer sum to 1."""
    batch = Batch(make(5, 0.3, 0.5), 6, 2, dtype, 3.0)
    plain = batch.labels()
    with torch.autocast("cpu", torch.bfloat16):
        q = batch.labels()
        assert torch.is_autocast_enabled("cpu")
    assert q.dtype == plain.dtype
    assert torch.equal(q, plain)


@every_scheme
def test_inference_mode_and_deterministic(make: Make) -> None:
    """The same arguments give the same labels: AWP's second pass relies on it."""
    batch = Batch(make(5, 0.3, 0.5), 6, 3, torch.float32, 3.0)
    q = batch.labels()
    assert torch.equal(batch.labels(), q)
    with torch.inference_mode():
        assert torch.equal(batch.labels(), q)


@every_scheme
def test_dtype_without_logits(make: Make) -> None:
    """float32 where nothing says otherwise; the teacher decides where it is alone."""
    scheme = make(4, 0.3, 0.5)
    double = Batch(scheme, 3, 4, torch.float64, 3.0)
    if "logits" not in scheme.needs:
        assert double.labels(logits=None).dtype == torch.float64
        single = Batch(scheme, 3, 4, torch.float16, 3.0)
        assert single.labels(logits=None).dtype == torch.float32
        if "teacher" not in scheme.needs:
            assert double.labels(logits=None, teacher_logits=None).dtype == torch.float32
    # With both, the logits decide.
    assert double.labels(logits=double.logits.float()).dtype == torch.float32
    assert double.labels(teacher_logits=double.teacher.float()).dtype == torch.float64


@every_scheme
def test_half_precision_logits_are_computed_in_float32(make: Make) -> None:
    """A softmax in float16 has three digits: the label must be that of the same numbers in
    float32."""
    batch = Batch(make(6, 0.3, 0.5), 8, 5, torch.float16, 3.0)
    wide = batch.labels(logits=batch.logits.float(), teacher_logits=batch.teacher.float())
    assert torch.equal(batch.labels(), wide)


@every_scheme
def test_declarations_are_consistent(make: Make) -> None:
    """The engine plans a step from these: a soft attack that needs the attacked logits can't be
    planned, and a scheme with a needed but unnamed teacher would train without one."""
    scheme = make(4, 0.3, 0.5)
    assert scheme.num_classes == 4
    assert scheme.needs <= {"logits", "teacher", "mix", "index"}
    assert (scheme.teacher is not None) == ("teacher" in scheme.needs)
    assert scheme.attack_labels == "hard" or "logits" not in scheme.needs
    assert scheme.check_values is True
    assert repr(scheme).startswith(f"{type(scheme).__name__}(num_classes=4")


@every_scheme
def test_needs_are_exactly_what_is_read(make: Make) -> None:
    """An undeclared need would crash in the engine, which passes only what is declared; here every
    undeclared argument is other noise, and must not be read."""
    scheme = make(4, 0.3, 0.5)
    batch = Batch(scheme, 5, 6, torch.float32, 3.0)
    changed = {}
    if "logits" not in scheme.needs:
        changed["logits"] = torch.randn_like(batch.logits)
    if "teacher" not in scheme.needs:
        changed["teacher_logits"] = torch.randn_like(batch.teacher)
    assert torch.equal(batch.labels(**changed), batch.labels())
