"""What reaches the training attack, the teacher and the loss, in real runs of fit().

The loss of every step is computed again in numpy float64 from the model's own logits and from
formulas of the labels that are written out here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels import make_scheme
from robustlabels.labels import MixUp, VirtualSmoothing
from robustlabels.training import FastTraining, Mart, PGDTraining, Standard, Trades, fit

K = 3
TRAINERS = {
    "pgd-at": PGDTraining,
    "fast-at": FastTraining,
    "trades": Trades,
    "mart": Mart,
    "standard": Standard,
}
ATTACKED = ["pgd-at", "fast-at", "trades", "mart"]
HARD = ["one-hot", "ls", "sls", "als", "bls", "sbls", "vs", "alps", "ltd"]


class Teacher(nn.Module):
    """Keeps its inputs and what it said."""

    def __init__(self, outputs: int = K) -> None:
        super().__init__()
        self.fc = nn.Linear(16, outputs)
        self.log: list[tuple[Tensor, Tensor, bool, bool]] = []

    def __deepcopy__(self, memo: Any) -> Teacher:
        return self

    def forward(self, x: Tensor) -> Tensor:
        out = 4 * self.fc(x.flatten(1))
        self.log.append((x.clone(), out.detach(), self.training, torch.is_grad_enabled()))
        return out


def spying(name: str) -> tuple[Any, list[dict[str, Any]]]:
    """A trainer that writes down each step: its labels, loss and logits."""
    seen: list[dict[str, Any]] = []

    class Spy(TRAINERS[name]):  # type: ignore[misc]
        def loss(self, step: Any) -> Tensor:
            outputs: list[Tensor] = []
            handle = step.model.register_forward_hook(lambda m, i, o: outputs.append(o.detach()))
            value: Tensor = super().loss(step)
            handle.remove()
            seen.append(
                {
                    "step": step,
                    "q": step.labels().double().numpy(),
                    "loss": value.item(),
                    "logits": [o.double().numpy() for o in outputs],
                }
            )
            return value

    return Spy(), seen


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(z))


def labels(name: str, y: np.ndarray, z: np.ndarray, t: Any, progress: float) -> np.ndarray:
    """The formulas of the papers, at the schemes' default parameters."""
    n, hot = len(y), np.eye(K)[y]
    masked = np.where(hot == 1, -np.inf, z[:, :K])
    if name == "one-hot":
        return hot
    if name == "ls":
        return 0.9 * hot + 0.1 / K
    if name == "sls":
        return 0.9 * hot + 0.1 / (K - 1) * (1 - hot)
    if name == "als":
        return 0.9 * hot + 0.1 * np.eye(K)[z.argmin(axis=1)]
    if name == "bls":
        return 0.9 * hot + 0.1 * softmax(np.where(hot == 1, -np.inf, -z / 0.001))
    if name == "sbls":
        return 0.9 * hot + 0.1 * np.eye(K)[masked.argmax(axis=1)]
    if name == "vs":
        return np.hstack([0.5 * hot, np.full((n, K), 0.5 / K)])
    if name == "alps":
        return 0.85 * hot + 0.15 * np.eye(K)[z.argmin(axis=1)]
    if name == "ltd":
        return softmax(t / 5.0)
    half_cosine = 0.5 * (1 + math.cos(math.pi * progress))
    tau, lam = 2.0 + 0.5 * half_cosine, 0.95 - 0.25 * half_cosine
    p = softmax(t / tau)
    own = np.clip(lam - (p.max(axis=1) - p[np.arange(n), y]), 0, 1)[:, None]
    return own * p + (1 - own) * hot


def mart_terms(z: np.ndarray, z_adv: np.ndarray, y: np.ndarray) -> float:
    """MART beyond its cross-entropy: margin and weight over K classes, the KL over all outputs."""
    p, p_adv, n = softmax(z[:, :K]), softmax(z_adv[:, :K]), np.arange(len(y))
    others = np.where(np.eye(K)[y] == 1, 0, p_adv)
    log_p, log_p_adv = log_softmax(z), log_softmax(z_adv)
    kl = (np.exp(log_p) * (log_p - log_p_adv)).sum(axis=1)
    return float((5 * (1 - p[n, y]) * kl - np.log(1 - others.max(axis=1))).mean())


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("scheme", [*HARD, "adr"])
def test_the_loss_is_on_the_papers_labels(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any, scheme: str, trainer: str
) -> None:
    """ART's trainers argmax soft labels silently; and a label from the wrong logits, teacher or
    progress trains another method under the paper's name."""
    teacher = Teacher()
    if scheme == "ltd":
        options["teacher"] = teacher
    made, seen = spying(trainer)
    fit(counted(), tiny, scheme, made, attack=recorder, **options)
    assert [s["step"].progress for s in seen] == [0, 1 / 3, 2 / 3]
    for s in seen:
        step, own = s["step"], s["logits"][1 if trainer == "mart" else 0]
        t = None if step.teacher_logits is None else step.teacher_logits.double().numpy()
        q = labels(scheme, step.y.numpy(), own, t, step.progress)
        np.testing.assert_allclose(s["q"], q, atol=2e-6)
        expected = -(q * log_softmax(own)).sum(axis=1).mean()
        if trainer == "trades":
            p, p_adv = log_softmax(own), log_softmax(s["logits"][1])
            expected += 6 * (np.exp(p) * (p - p_adv)).sum(axis=1).mean()
        if trainer == "mart":
            expected += mart_terms(s["logits"][0], own, step.y.numpy())
        assert s["loss"] == pytest.approx(expected, rel=1e-5)
    if scheme == "ltd":
        # the first forward was fit's own check of the teacher, if any
        for s, (_, said, _, _) in zip(seen, teacher.log[-3:], strict=True):
            assert torch.equal(s["step"].teacher_logits, said)


@pytest.mark.parametrize("trainer", ATTACKED)
@pytest.mark.parametrize("scheme", [*HARD, "vs+adr", "vs+als", "vs+ltd"])
def test_the_attack_sees_hard_labels(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any, scheme: str, trainer: str
) -> None:
    """With soft targets the gradient of CE changes sign where p_y > q_y, and PGD stops attacking:
    training would look robust against an attack that spares it."""
    if "ltd" in scheme:
        options["teacher"] = Teacher()
    named = {"name": "vs", "inner": scheme[3:]} if scheme.startswith("vs+") else scheme
    made, seen = spying(trainer)
    fit(counted(), tiny, named, made, attack=recorder, **options)
    assert len(seen) == 3
    for s, x, y in zip(seen, recorder.x, recorder.y, strict=True):
        assert y.dtype == torch.int64
        assert torch.equal(y, s["step"].y)
        assert torch.equal(x, s["step"].x)
        assert torch.equal(s["step"].x_adv, (x + recorder.by).clamp(0, 1))


@pytest.mark.parametrize("trainer", ATTACKED)
def test_the_attack_sees_adrs_rectified_labels(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any, trainer: str
) -> None:
    """The one exception, by ADR's Algorithm 1; and the same labels must reach the loss."""
    made, seen = spying(trainer)
    fit(counted(), tiny, "adr", made, attack=recorder, **options)
    for s, y in zip(seen, recorder.y, strict=True):
        assert y.shape == (len(s["step"].y), K)
        assert np.array_equal(y.double().numpy(), s["q"])
        assert 0 < (1 - y.amax(dim=1)).max() < 1  # really soft


@pytest.mark.parametrize("trainer", ATTACKED)
@pytest.mark.parametrize("outputs", [K, K + 4])
def test_the_attack_sees_mixups_mixed_classes(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any, trainer: str, outputs: int
) -> None:
    """lam CE(y) + (1 - lam) CE(y') on inputs mixed likewise, over K + V with vs around it: a
    label K wide would not fit, one smoothed by vs would spare the model."""
    mixes = []

    class Noted(MixUp):
        def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
            moved, mix = super().perturb(x, y, generator)
            mixes.append((x, y, moved, mix))
            return moved, mix

    scheme: Any = Noted(K)
    if outputs > K:
        scheme = VirtualSmoothing(K, virtual_classes=outputs - K, inner=scheme)
    fit(counted(), tiny, scheme, trainer, attack=recorder, **options)
    assert len(mixes) == 3
    for (x, y, moved, mix), got_x, got in zip(mixes, recorder.x, recorder.y, strict=True):
        lam = float(mix.lam[0])
        assert torch.equal(got_x, moved)
        mixed = lam * x.double() + (1 - lam) * x[mix.partner].double()
        torch.testing.assert_close(moved.double(), mixed, atol=1e-6, rtol=0)
        expected = torch.zeros(len(y), outputs, dtype=torch.float64)
        for i, (own, partner) in enumerate(zip(y, y[mix.partner], strict=True)):
            expected[i, own] += lam
            expected[i, partner] += 1 - lam
        torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=0)


def test_mixups_loss_is_the_mixture_of_two(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any
) -> None:
    """lam CE(y) + (1 - lam) CE(y'): a label of the unmixed class on a mixed input is noise."""
    made, seen = spying("pgd-at")
    fit(counted(), tiny, "mixup", made, attack=recorder, **options)
    for s in seen:
        step, (z,) = s["step"], s["logits"]
        lam, n = float(step.mix.lam[0]), np.arange(len(step.y))
        own, partner = step.y.numpy(), step.y[step.mix.partner].numpy()
        log_p = log_softmax(z)
        expected = -(lam * log_p[n, own] + (1 - lam) * log_p[n, partner]).mean()
        assert s["loss"] == pytest.approx(expected, rel=1e-5)


class MovesAndAsks:
    """A plugin's scheme that moves the input and needs a frozen teacher."""

    num_classes = num_outputs = K
    needs = frozenset({"teacher"})

    def perturb(self, x: Tensor, y: Tensor, generator: Any = None) -> Any:
        return x * 0.5, None

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return teacher_logits.softmax(dim=1)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_the_teacher_sees_the_moved_input_before_the_attack(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any, trainer: str
) -> None:
    """A teacher that is asked about x' tells what the attack made of the image."""
    teacher = Teacher()
    made, seen = spying(trainer)
    fit(counted(), tiny, MovesAndAsks(), made, attack=recorder, teacher=teacher, **options)
    log = teacher.log[-3:]
    for s, (x, _, training, grad) in zip(seen, log, strict=True):
        assert torch.equal(x, s["step"].x)
        assert x.max() <= 0.5  # halved, not moved by the attack
        assert not training
        assert not grad
    x = tiny[0]
    halves = {tuple(row) for row in (x * 0.5).flatten(1).tolist()}
    assert {tuple(row) for row in torch.cat([r[0] for r in log]).flatten(1).tolist()} == halves


def test_index_is_the_place_in_the_training_split(
    counted: Any, tiny: Any, options: dict[str, Any], recorder: Any
) -> None:
    """A scheme that keeps a table per sample would mix samples up, and more so with validation
    samples held out."""
    made, seen = spying("pgd-at")
    options["validation"] = 12
    fit(counted(), tiny, make_scheme("one-hot", K), made, attack=recorder, **options)
    x, y = tiny
    for s in seen:
        step = s["step"]
        assert torch.equal(x[step.index], step.x)
        assert torch.equal(y[step.index], step.y)


def test_the_model_is_in_train_mode_for_the_loss_and_in_eval_mode_for_the_attack(
    tiny: Any, options: dict[str, Any]
) -> None:
    """Batch norm's statistics would be those of attacked batches."""
    modes: list[tuple[bool, bool]] = []

    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            live = any(p.requires_grad for p in self.parameters())
            modes.append((live, self.training))
            return super().forward(x)

    model = Model(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, K))
    fit(model, tiny, "one-hot", "pgd-at", **options)
    assert modes[-11:] == [(False, False)] * 10 + [(True, True)]
    assert model[1].num_batches_tracked == 3


def test_a_large_batch_goes_through_a_teacher_in_parts_on_a_cpu() -> None:
    """Its activations would leave the cache: a fifth of a teacher's cost. Each sample must still
    get its own logits."""
    teacher = Teacher()
    teacher.fc = nn.Linear(3 * 32 * 32, K)
    trainer, seen = spying("standard")
    x = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = torch.arange(64) % K
    fit("linear", (x, y), "ltd", trainer, teacher=teacher, epochs=1, batch_size=64, validation=0)
    assert len(teacher.log[-1][0]) == 32
    (step,) = seen
    expected = softmax(teacher(step["step"].x).detach().double().numpy() / 5.0)
    np.testing.assert_allclose(step["q"], expected, atol=1e-6)
