"""Adversarial weight perturbation: three variants, in real runs of fit()."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustlabels import make_scheme
from robustlabels.config import AwpConfig, make_config
from robustlabels.data import as_dataset
from robustlabels.training import PGDTraining, fit, fit_config
from robustlabels.training.assembly import Given
from robustlabels.training.perturbation import WeightPerturbation

K = 3
VARIANTS = ["robustlabels", "wu", "adr"]


class Double(nn.Module):
    """x W + b in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.weight = nn.Parameter(torch.randn(16, K, generator=generator, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(K, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.weight + self.bias


def norm_model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, K)
    )


def smooth_model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, K))


def shifted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (x * 0.8 + 0.1).clamp(0, 1)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def objective(name: str, x: np.ndarray, q: np.ndarray, w: np.ndarray, b: np.ndarray) -> float:
    own, attacked = log_softmax(x @ w + b), log_softmax((0.8 * x + 0.1) @ w + b)
    if name == "pgd-at":
        return float(-(q * attacked).sum(axis=1).mean())
    loss = -(q * own).sum(axis=1).mean()
    if name == "trades":
        loss += 6 * (np.exp(own) * (own - attacked)).sum(axis=1).mean()
    return float(loss)


def gradient(name: str, x: np.ndarray, q: np.ndarray, w: np.ndarray, b: np.ndarray) -> Any:
    """Central differences for each of w and b."""
    found = []
    for which in range(2):
        numeric = np.zeros_like((w, b)[which])
        for place in np.ndindex(numeric.shape):
            ends = []
            for h in (1e-5, -1e-5):
                moved = [w.copy(), b.copy()]
                moved[which][place] += h
                ends.append(objective(name, x, q, *moved))
            numeric[place] = (ends[0] - ends[1]) / 2e-5
        found.append(numeric)
    return found


@pytest.mark.parametrize("trainer", ["standard", "pgd-at", "trades"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_by_hand(tiny: Any, options: dict[str, Any], variant: str, trainer: str) -> None:
    """Finite differences in float64 of the whole step. A relative size of the gradient instead of
    the weights, a perturbed bias, labels of the perturbed logits (als), or weight decay on the
    wrong weights are each a method that nobody has published."""
    x, y = tiny[0][:16], tiny[1][:16]
    lr, decay, gamma = 0.2, 0.1, 0.5
    options |= {
        "optimizer": {"lr": lr, "momentum": 0.0, "weight_decay": decay},
        "schedule": {"name": "constant"},
        "awp": {"variant": variant, "gamma": gamma},
    }
    model = Double()
    w, b = model.weight.detach().numpy().copy(), model.bias.detach().numpy().copy()
    fit(model, (x, y), "als", trainer, attack=shifted, **options)

    images = x.flatten(1).double().numpy()
    seen = images if trainer != "pgd-at" else 0.8 * images + 0.1
    z = seen @ w + b
    q = 0.9 * np.eye(K)[y.numpy()] + 0.1 * np.eye(K)[z.argmin(axis=1)]
    gw, gb = gradient(trainer, images, q, w, b)
    vw = gamma * np.linalg.norm(w) / np.linalg.norm(gw) * gw
    vb = gamma * np.linalg.norm(b) / np.linalg.norm(gb) * gb if variant == "adr" else 0.0
    assert ((seen @ (w + vw) + b).argmin(axis=1) != z.argmin(axis=1)).any()  # als would differ
    hw, hb = gradient(trainer, images, q, w + vw, b + vb)
    decayed = w + vw if variant == "wu" else w
    np.testing.assert_allclose(
        model.weight.detach().numpy(), w - lr * (hw + decay * decayed), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        model.bias.detach().numpy(), b - lr * (hb + decay * b), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_norms_statistics(tiny: Any, options: dict[str, Any], variant: str) -> None:
    """Counted in both passes, or of the other pass, the deployed model has statistics that its
    weights never had (wu's do, on purpose: of w + v)."""
    x, y = tiny[0][:16], tiny[1][:16]
    model = norm_model()
    means: list[Tensor] = []
    model[2].register_forward_hook(
        lambda m, i, o: means.append(i[0].detach().mean(dim=0)) if m.training else None
    )
    awp = {"variant": variant, "gamma": 0.3}
    fit(model, (x, y), "ls", "pgd-at", attack=shifted, awp=awp, **options)
    first, second = means
    assert not torch.allclose(first, second)
    expected = 0.1 * (second if variant == "wu" else first)
    torch.testing.assert_close(model[2].running_mean, expected)
    assert model[2].num_batches_tracked.item() == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_attack_in_train_mode_counts(tiny: Any, options: dict[str, Any], variant: str) -> None:
    """Wu's AT code attacks in train mode: it is the ascent's statistics that are thrown away, and
    not the attack's."""
    model = norm_model()
    attack = {"name": "pgd", "steps": 4, "mode": "train"}
    options |= {"attack": attack, "awp": {"variant": variant}, "accumulate": 2}
    fit(model, (tiny[0][:16], tiny[1][:16]), "ls", "pgd-at", **options)
    assert model[2].num_batches_tracked.item() == 2 * (4 + 1)


class Diary(PGDTraining):
    """The weights before each step, and those that each loss saw."""

    def __init__(self) -> None:
        self.starts: list[dict[str, Tensor]] = []
        self.at_loss: list[dict[str, Tensor]] = []
        self.teacher_logits: list[Tensor | None] = []
        self.x: list[Tensor] = []

    def inputs(self, step: Any) -> None:
        self.starts.append(copied(step.model))
        self.teacher_logits.append(step.teacher_logits)
        self.x.append(step.x.clone())
        super().inputs(step)

    def loss(self, step: Any) -> Tensor:
        self.at_loss.append(copied(step.model))
        return super().loss(step)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def averaged(states: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    found = {k: v.double() for k, v in states[0].items()}
    for state in states[1:]:
        found = {k: decay * v + (1 - decay) * state[k].double() for k, v in found.items()}
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_average_and_teacher_see_restored_weights(
    tiny: Any, options: dict[str, Any], variant: str
) -> None:
    """An average of perturbed weights is a worse model, and a worse teacher, at every step."""
    diary = Diary()
    options |= {"epochs": 2, "awp": {"variant": variant, "gamma": 0.3}}
    scheme = make_scheme("adr", K, ema_decay=0.8)
    result = fit(
        smooth_model(), tiny, scheme, diary, attack=shifted, weight_averaging=0.8, **options
    )
    assert len(diary.starts) == 6 and len(diary.at_loss) == 12
    for start, first, second in zip(
        diary.starts, diary.at_loss[::2], diary.at_loss[1::2], strict=True
    ):
        assert all(torch.equal(start[k], first[k]) for k in start)
        assert not torch.equal(start["1.weight"], second["1.weight"])
        assert torch.equal(start["1.bias"], second["1.bias"]) == (variant != "adr")
    expected = averaged([*diary.starts, result.last], 0.8)
    assert result.average is not None
    for name, value in result.average.items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    teacher = smooth_model().double()
    for i, (said, x) in enumerate(zip(diary.teacher_logits, diary.x, strict=True)):
        teacher.load_state_dict(averaged(diary.starts[: i + 1], 0.8))
        assert said is not None
        with torch.no_grad():
            torch.testing.assert_close(said.double(), teacher(x.double()), rtol=1e-4, atol=1e-5)


class Interrupted(PGDTraining):
    """Ctrl-C in the second pass of the second step."""

    def __init__(self, late: bool) -> None:
        self.late, self.calls = late, 0
        self.before: dict[str, Tensor] = {}

    def inputs(self, step: Any) -> None:
        self.before = copied(step.model)
        super().inputs(step)

    def loss(self, step: Any) -> Tensor:
        self.calls += 1
        if self.calls == 4 and not self.late:
            raise KeyboardInterrupt
        loss = super().loss(step)
        if self.calls == 4:
            raise KeyboardInterrupt
        return loss


@pytest.mark.parametrize("late", [False, True], ids=["before the forward", "after it"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupt_leaves_the_weights_before_the_step(
    tiny: Any, options: dict[str, Any], variant: str, late: bool
) -> None:
    """Users keep the model after Ctrl-C: it must be the trained one, to the bit, and not one that
    was just made worse on purpose."""
    model, trainer = norm_model(), Interrupted(late)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tiny, "ls", trainer, awp={"variant": variant, "gamma": 0.3}, **options)
    for name, value in model.state_dict().items():
        statistics = name.startswith("2.") and name[2:] not in ("weight", "bias")
        if not statistics:
            assert torch.equal(value, trainer.before[name]), name
    if variant == "wu" and not late:  # its first pass leaves no statistics
        assert all(torch.equal(v, trainer.before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_around_the_optimizers_step(error: type[BaseException]) -> None:
    """wu steps at w + v: an exception must not leave half of that."""
    model = smooth_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    awp = WeightPerturbation(model, optimizer, AwpConfig(variant="wu", gamma=0.3))
    before = copied(model)
    model(torch.rand(4, 1, 4, 4)).square().sum().backward()
    with pytest.raises(error), awp.applied():
        assert all(p.grad is None for p in model.parameters())
        model(torch.rand(4, 1, 4, 4)).square().sum().backward()
        optimizer.step()
        raise error
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_layers_without_gradient_stay() -> None:
    """||g|| = 0 would give NaN; a frozen layer or one outside the optimizer must not move."""
    model = nn.Sequential(*(nn.Linear(3, 3, bias=False) for _ in range(4)))
    model[1].weight.requires_grad_(False)
    optimizer = torch.optim.SGD([model[i].weight for i in (0, 1, 2)], lr=0.1)
    awp = WeightPerturbation(model, optimizer, AwpConfig(gamma=0.3))
    before = copied(model)
    model(torch.rand(4, 3)).sum().backward()
    model[2].weight.grad = torch.zeros(3, 3)
    with awp.applied():
        now = copied(model)
    assert [torch.equal(before[k], now[k]) for k in before] == [False, True, True, True]
    size = (now["0.weight"] - before["0.weight"]).norm() / before["0.weight"].norm()
    assert float(size) == pytest.approx(0.3, rel=1e-5)


def test_warm_up(tiny: Any, options: dict[str, Any]) -> None:
    """Before its end nothing may differ from plain training; from then on it must."""
    weights = []
    for awp in (None, {"gamma": 0.2, "warmup_epochs": 1}):
        diary = Diary()
        fit(smooth_model(), tiny, "ls", diary, **(options | {"epochs": 2, "awp": awp}))
        weights.append(diary.starts)
    same = [torch.equal(a["1.weight"], b["1.weight"]) for a, b in zip(*weights, strict=True)]
    assert same == [True, True, True, True, False, False]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scheme", ["als", "adr", "vs", "mixup", "alps"])
@pytest.mark.parametrize("trainer", ["pgd-at", "trades"])
def test_one_attack_and_one_label_a_step(
    tiny: Any, options: dict[str, Any], recorder: Any, variant: str, scheme: str, trainer: str
) -> None:
    """A second attack would double the cost; labels of the perturbed logits would chase them."""
    made = make_scheme(scheme, K)
    genuine, calls = made.labels, []

    def labels(*args: Any, **given: Any) -> Tensor:
        calls.append(given)
        return genuine(*args, **given)

    made.labels = labels
    awp = {"variant": variant, "gamma": 0.1}
    result = fit(smooth_model(), tiny, made, trainer, attack=recorder, awp=awp, **options)
    assert len(recorder.x) == 3
    assert len(calls) == 3
    assert result.history[0]["step"] == 3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("parts", [2, 3, 16])
def test_accumulation_gives_the_same_weights(
    tiny: Any, options: dict[str, Any], variant: str, parts: int
) -> None:
    """Perturbed by each part's own gradient, the parts would be of different models."""
    options |= {"epochs": 2, "optimizer": {"lr": 0.3}, "awp": {"variant": variant, "gamma": 0.1}}
    one, many = (
        fit(smooth_model(), tiny, "als", "trades", attack=shifted, accumulate=n, **options)
        for n in (1, parts)
    )
    for name, value in one.last.items():
        torch.testing.assert_close(value, many.last[name], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_clipping_limits_the_update(tiny: Any, options: dict[str, Any], variant: str) -> None:
    """Clipped before the second pass it would limit nothing: v does not depend on g's size."""
    options |= {
        "optimizer": {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "clip_grad_norm": 1e-3},
        "schedule": {"name": "constant"},
        "awp": {"variant": variant, "gamma": 0.1},
    }
    diary = Diary()
    result = fit(smooth_model(), tiny, "ls", diary, attack=shifted, **options)
    for a, b in itertools.pairwise([*diary.starts, result.last]):
        moved = torch.cat([(b[k] - a[k]).flatten() for k in a]).norm()
        assert float(moved) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_sees_the_perturbed_weights(tiny: Any, options: dict[str, Any], variant: str) -> None:
    """Autocast keeps casts of weights: from the first pass, they would make the second the same."""
    outputs: list[Tensor] = []
    model = smooth_model()
    model.register_forward_hook(
        lambda m, i, o: outputs.append(o.detach()) if o.requires_grad else None
    )
    options |= {"precision": "bf16", "awp": {"variant": variant, "gamma": 0.3}}
    result = fit(model, tiny, "ls", "pgd-at", attack=shifted, **options)
    assert [o.dtype for o in outputs] == [torch.bfloat16] * 6
    assert all(not torch.equal(a, b) for a, b in zip(outputs[::2], outputs[1::2], strict=True))
    assert {v.dtype for v in result.last.values()} == {torch.float32}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_given_optimizer(tiny: Any, variant: str) -> None:
    """ART's classifiers bring theirs, with a learning rate of its own."""
    weights = []
    for own in (False, True):
        model = smooth_model()
        given = Given(model=model, attack=shifted, data=as_dataset(tiny))
        if own:
            given.optimizer = torch.optim.SGD(
                model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
        config = make_config(
            {
                "model": "python:Sequential",
                "epochs": 1,
                "batch_size": 16,
                "validation": 0,
                "schedule": {"name": "constant"},
                "awp": {"variant": variant, "gamma": 0.1},
            }
        )
        weights.append(fit_config(config, given=given).last)
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])


def test_clipping_looks_at_what_is_stepped(tiny: Any) -> None:
    """Of a layer outside the optimizer nobody erases the gradients: their growing sum would
    shrink every step."""
    model = smooth_model()
    data = as_dataset(tiny)
    optimizer = torch.optim.SGD(model[3].parameters(), lr=1.0)
    given = Given(model=model, attack=shifted, data=data, optimizer=optimizer, trainer=Diary())
    config = make_config(
        {
            "model": "python:Sequential",
            "epochs": 4,
            "batch_size": 16,
            "validation": 0,
            "optimizer": {"clip_grad_norm": 1e-3},
        }
    )
    last = fit_config(config, given=given).last
    for a, b in itertools.pairwise([*given.trainer.starts, last]):
        moved = torch.cat([(b[k] - a[k]).flatten() for k in a]).norm()
        assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_the_record_is_of_the_unperturbed_weights(tiny: Any, options: dict[str, Any]) -> None:
    """Loss and accuracy at w + v can't be compared with those of a run without."""
    x, y = tiny[0][:16], tiny[1][:16]
    plain, perturbed = (
        fit(smooth_model(), (x, y), "ls", "pgd-at", attack=shifted, awp=awp, **options).history[0]
        for awp in (None, 0.5)
    )
    for field in ("train_loss", "train_accuracy"):
        assert plain[field] == perturbed[field]


@pytest.mark.parametrize(
    ("given", "gamma"), [(True, 0.005), (0.02, 0.02), ({"variant": "wu"}, 0.005), (False, None)]
)
def test_how_it_is_asked_for(given: Any, gamma: float | None) -> None:
    """A number is gamma; the resolved config is complete."""
    awp = make_config({"awp": given}).awp
    assert (None if awp is None else awp.gamma) == gamma


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0, "awp.gamma must be greater than 0, not 0"),
        (-0.1, "awp.gamma must be greater than 0"),
        ({"gama": 0.1}, "unknown field 'awp.gama'; did you mean 'gamma'"),
        ({"variant": "sam"}, "awp.variant must be 'robustlabels', 'wu' or 'adr', not 'sam'"),
        ({"warmup_epochs": -1}, "awp.warmup_epochs must be greater than or equal to 0"),
        ("yes", "awp must be a table"),
    ],
)
def test_refused(given: Any, message: str) -> None:
    """One line that names the field."""
    with pytest.raises(ValueError, match=message) as caught:
        make_config({"awp": given})
    assert "\n" not in str(caught.value)
