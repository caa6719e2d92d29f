"""The plugin keeps the rules of robustlabels, does what it says, and is installed."""

from __future__ import annotations

import pytest
import torch
from robustlabels_template import MixedTraining, SoftBootstrap

import robustlabels as rl
from robustlabels.testing import check_scheme, check_trainer


@pytest.mark.parametrize("beta", [0.0, 0.95, 1.0])
def test_the_scheme_keeps_the_rules(beta: float) -> None:
    """Shapes, dtypes, sums, gradients and so on."""
    check_scheme(SoftBootstrap, beta=beta)


def test_its_labels() -> None:
    """By hand: with equal logits the model believes in each of two classes by a half."""
    scheme = SoftBootstrap(num_classes=2, beta=0.9)
    labels = scheme.labels(torch.tensor([0]), logits=torch.zeros(1, 2))
    torch.testing.assert_close(labels, torch.tensor([[0.95, 0.05]]))


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_the_trainer_keeps_the_rules(share: float) -> None:
    """Soft labels reach the loss, hard ones the attack; it learns, resumes and so on."""
    check_trainer(MixedTraining, share=share)


@pytest.mark.parametrize(("share", "trainer"), [(1.0, "standard"), (0.0, "pgd-at")])
def test_its_limits(share: float, trainer: str) -> None:
    """All clean is standard training, all attacked is Madry's."""
    x, y = torch.rand(32, 1, 4, 4), torch.arange(32) % 2
    ours, known = (
        rl.fit("linear", (x, y), trainer=t, epochs=1, validation=0, device="cpu").last
        for t in (MixedTraining(share), trainer)
    )
    for name, weight in known.items():
        torch.testing.assert_close(ours[name], weight)


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_bad_values(bad: float) -> None:
    """A ValueError that names the parameter; robustlabels shows it in one line."""
    with pytest.raises(ValueError, match="beta must be in"):
        SoftBootstrap(3, beta=bad)
    with pytest.raises(ValueError, match="share must be in"):
        MixedTraining(bad)


def test_both_are_installed() -> None:
    """By their names, as users ask for them."""
    assert isinstance(rl.make_scheme("robustlabels-template-bootstrap", 3), SoftBootstrap)
    assert isinstance(rl.make_trainer("robustlabels-template-mixed"), MixedTraining)
