"""Without these, images whose logits are NaN would count as class 0 and make figures too high."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.attacks import PGD, AutoAttack
from robustlabels.data import TensorSplit
from robustlabels.data.extra import ExtraData
from robustlabels.evaluation import autoattack
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
