"""Without these, images whose logits are NaN would count as class 0 and make figures too high."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.attacks import PGD, AutoAttack
from robustlabels.data import TensorSplit
from robustlabels.data.extra import ExtraData
from robustlabels.evaluation import audit, autoattack, robust_accuracy
from robustlabels.training.extra import pseudo_labels
from robustlabels.training.validation import validate

BROKEN = 5
"""Number of images, the last, whose logits are NaN; all have label 0, torch's argmax of them."""


class Breaking(nn.Module):
    """Four linear classes; NaN for an image with a corner pixel above 0.9."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 64, generator=g) / 4)

    def forward(self, x: Tensor) -> Tensor:
        broken = x[:, 0, 0, :1] > 0.9
        return (x.flatten(1) @ self.weight.T).masked_fill(broken, torch.nan)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """Thirty images with the model's own labels, and five broken ones with label 0."""
    g = torch.Generator().manual_seed(1)
    x = 0.3 + 0.4 * torch.rand(30 + BROKEN, 1, 8, 8, generator=g)
    y = Breaking()(x).argmax(dim=1)
    y[-BROKEN:] = 0
    x[-BROKEN:, 0, 0, 0] = 1.0
    return x, y


def test_nan_logits_are_misclassified_by_every_attack_of_an_evaluation(images: Any) -> None:
    official = AutoAttack(1e-6, official=True)
    found = rl.evaluate(Breaking(), images, attacks=["pgd", "autoattack", official], eps=1e-6)
    wanted = [True] * 30 + [False] * BROKEN
    assert found["clean"]["top1"] == 30 / 35
    assert len(found["verdicts"]) == 3
    for verdicts in found["verdicts"].values():
        assert verdicts == wanted


def test_nan_logits_are_misclassified_by_autoattack_with_virtual_classes(images: Any) -> None:
    x, y = images
    keep = y < 3
    cut = autoattack(Breaking(), x[keep], y[keep], eps=1e-6, num_classes=3)
    right = int(keep[:30].sum())
    assert cut.clean_accuracy == cut.accuracy == right / (right + BROKEN)


def test_nan_logits_are_misclassified_in_validation(images: Any) -> None:
    found = validate(
        Breaking(),
        TensorSplit(*images),
        torch.arange(35),
        num_classes=4,
        attack=PGD(1e-6),
        batch_size=8,
        device=torch.device("cpu"),
    )
    assert (found.clean, found.robust) == (30 / 35, 30 / 35)


def test_a_restart_that_breaks_the_logits_is_kept() -> None:
    """The model returns NaN right of 0.505, where a random start of two may lie."""
    x = torch.full((64, 1, 8, 8), 0.5)

    class Edge(Breaking):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.stack([x.flatten(1).sum(1) + 100, 0 * x.flatten(1).sum(1)], dim=1)
            return z.masked_fill(x[:, 0, 0, :1] > 0.505, torch.nan)

    attack = PGD(0.01, steps=1, step_size=1e-6, restarts=8)
    torch.manual_seed(0)
    broken = Edge()(attack(Edge(), x, torch.zeros(64).long())).isnan().any(dim=1)
    assert broken.float().mean() > 0.8  # 1 - 0.75 ** 8 = 0.90 of the images; of one start 0.25


def test_pseudo_labels_of_nan_are_refused(images: Any) -> None:
    extra = ExtraData("more", TensorSplit(*images), (1, 8, 8), labelled=False)
    with pytest.raises(ValueError, match="NaN for 5 of the 35 images of 'more'") as caught:
        pseudo_labels(Breaking(), extra, 16, torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_calibration_excludes_nan_and_reports_how_many(images: Any) -> None:
    """torchmetrics applies a softmax to all rows if one value lies outside [0, 1]."""
    x, y = images
    found = rl.evaluate(Breaking(), images, attacks=["fgsm"], eps=1e-6)
    rest = rl.evaluate(Breaking(), (x[:30], y[:30]), attacks=["fgsm"], eps=1e-6, num_classes=4)
    assert found["ece"]["clean"] == pytest.approx(rest["ece"]["clean"], abs=1e-7)
    assert found["ece_excluded"] == {"clean": BROKEN, "fgsm": BROKEN}
    assert rest["ece_excluded"] == {}


def test_a_temperature_and_an_audit_of_nan_logits_are_refused(images: Any) -> None:
    x, y = images
    held_out = (x.roll(1, dims=3).clone(), y)
    held_out[0][0, 0, 0, 0] = 1.0
    with pytest.raises(ValueError, match="1 of 35 held-out images have NaN or infinite logits"):
        rl.evaluate(
            Breaking(),
            (x[:30], y[:30]),
            attacks=(),
            evaluations=["temperature-scaling"],
            held_out=held_out,
            num_classes=4,
        )
    with pytest.raises(ValueError, match="logits are NaN for 5 of 35 images"):
        audit(Breaking(), x, y, eps=0.1)


@pytest.mark.parametrize("entry", ["evaluate", "audit", "robust_accuracy", "validate"])
def test_an_attack_in_train_mode_leaves_the_batch_norms_statistics_alone(entry: str) -> None:
    """Batch 2 would be judged by a model that has adapted to batch 1, and the caller's changed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(16, 2)).eval()
    model[0].running_mean.fill_(0.4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(24, 1, 4, 4)
    y = model(x).argmax(dim=1)
    attack = PGD(0.01, mode="train", steps=2)
    if entry == "evaluate":
        found = rl.evaluate(model, (x, y), [attack], eps=0.01, batch_size=8, num_classes=2)
        assert found["clean"]["top1"] == 1.0
    elif entry == "audit":
        audit(model, x, y, eps=0.01, batch_size=8)
    elif entry == "robust_accuracy":
        robust_accuracy(model, attack, x, y, 8)
    else:
        device = torch.device("cpu")
        rows = torch.arange(24)
        found = validate(
            model,
            TensorSplit(x, y),
            rows,
            num_classes=2,
            attack=attack,
            batch_size=8,
            device=device,
        )
        assert found.clean == 1.0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Slope(torch.autograd.Function):
    """The identity, whose gradient is infinite for images with a dark corner."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad.masked_fill(x[:, :, :1, :1] < 0.2, torch.inf)


class Infinite(Breaking):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Slope.apply(x))


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_images_with_infinite_gradients_stay_valid_and_are_reported(images: Any, norm: str) -> None:
    x, y = images[0][:12].clone(), images[1][:12]
    x[:3, 0, 0, 0] = 0.05
    eps = 0.05
    found = rl.evaluate(
        Infinite(),
        (x, y),
        ["pgd", "fgsm", "autoattack"],
        eps=eps,
        norm=norm,
        num_classes=4,
        batch_size=5,
        keep_adversarial=True,
    )
    for name, adversarial in found["adversarial"].items():
        assert adversarial.isfinite().all(), name
        assert found["attacks"][name]["eps_bounded"], name
        assert any("infinite input gradients" in f for f in found["attacks"][name]["flags"]), name
    assert found["attacks"]["pgd"]["nonfinite_gradients"] == 3
