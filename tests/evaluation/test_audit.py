"""``audit``: what it returns, what it takes, what it leaves alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.attacks import PGD
from robustlabels.evaluation import audit
from robustlabels.evaluation.auditing import Audit
from robustlabels.factories import make_dataset

EPS, N = 0.1, 60
LINE = r"masked: PGD \d+\.\d %, worst \d+\.\d % \(.+\)"


def digits(split, n: int) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:n]
    return next(iter(split.batches([rows], torch.device("cpu"))))


@pytest.fixture(scope="module")
def data() -> tuple[Tensor, Tensor]:
    return digits(make_dataset("digits").test_split(), N)


@pytest.fixture(scope="module")
def robust() -> nn.Module:
    """An MLP, adversarially trained for a second."""
    x, y = digits(make_dataset("digits").train, 1000)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for rows in torch.randperm(len(x)).split(100):
            x_adv = PGD(EPS, steps=3)(model, x[rows], y[rows])
            optimizer.zero_grad()
            F.cross_entropy(model(x_adv), y[rows]).backward()
            optimizer.step()
    return model


class Changed(nn.Module):
    """A model's logits, changed."""

    def __init__(self, model: nn.Module, change) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x))


def quickly(model: nn.Module, *args, **options):
    """With a surrogate, so that none need be taught: that takes most of the time here."""
    return audit(model, *args, surrogate=options.pop("surrogate", model), **options)


def names(report) -> set[str]:
    return {check.name for check in report.failed}


def test_an_adversarially_trained_model_is_consistent(robust: nn.Module, data) -> None:
    """And its figures fit each other: an audit that contradicts itself proves nothing."""
    report = audit(robust, *data, eps=EPS)
    assert report.verdict == "consistent"
    assert report.consistent
    assert all(check.passed for check in report.checks)
    assert 0.4 < report.worst <= report.attacks["PGD"] <= report.attacks["FGSM"] < 1
    assert report.worst == report.attacks[report.worst_attack] == min(report.attacks.values())
    assert report.robust_accuracy <= report.worst <= report.clean_accuracy
    assert (report.n, report.eps, report.norm, report.num_classes) == (N, EPS, "Linf", 10)
    for check in report.checks:
        assert check.name and check.threshold and check.why and check.source


def test_a_scale_of_the_logits_is_found_out(robust: nn.Module, data) -> None:
    """Predictions are the same, so the true figure is; what PGD says of it is not."""
    honest = quickly(robust, *data, eps=EPS)
    report = quickly(Changed(robust, lambda z: 1e4 * z), *data, eps=EPS)
    assert not report.consistent
    assert re.fullmatch(LINE, report.verdict)
    assert report.clean_accuracy == honest.clean_accuracy
    assert report.attacks["PGD"] > honest.attacks["PGD"] + 0.1
    assert abs(report.worst - honest.worst) < 0.05
    assert {"zero gradients", "rescaled logits", "margin and DLR"} <= names(report)


def test_the_same_seed_gives_the_same_report(robust: nn.Module, data) -> None:
    """Also where the global generators stand elsewhere; and these stay where they were."""
    reports = []
    for caller in (1, 2):
        torch.manual_seed(caller)
        np.random.seed(caller)
        before = torch.get_rng_state().clone(), np.random.get_state()[1].copy()
        reports.append(audit(robust, *data, eps=EPS, seed=3).to_dict())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1] == before[1]).all()
    for report in reports:
        del report["seconds"]
    assert reports[0] == reports[1]


def test_the_model_is_left_as_it_was(data) -> None:
    """An audit between two epochs must not change training: modes, gradients, statistics."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(144, 10)
    ).train()
    norm.eval()
    model[0].bias.requires_grad_(False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    strides = model[0].weight.stride()
    report = quickly(model, data[0], data[1], eps=0.01)
    assert [m.training for m in model] == [True, False, True, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, False, *[True] * 4]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model[0].weight.stride() == strides
    assert "same answer" not in names(report)  # judged in eval mode, dropout is none


def test_virtual_classes_are_attacked_and_not_judged(robust: nn.Module, data) -> None:
    """y is judged among the first K; a virtual logit that is always greatest breaks nothing."""
    wide = Changed(robust, lambda z: torch.cat([z, z.amax(1, keepdim=True) + z[:, :5] + 50], 1))
    report = quickly(wide, *data, eps=EPS, num_classes=10)
    plain = quickly(robust, *data, eps=EPS)
    assert report.clean_accuracy == plain.clean_accuracy
    assert (report.num_classes, report.virtual_classes) == (10, 5)
    assert {"PGD, all outputs", "margin PGD, all outputs"} <= set(report.attacks)
    assert report.consistent
    assert abs(report.worst - plain.worst) < 0.05


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    """DLR is undefined for two classes, AutoAttack's targeted one for three: no reason to fail."""
    x = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, classes, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(classes, 36))
    report = quickly(model, x, model(x).argmax(1), eps=0.1)
    assert report.consistent
    assert ("APGD-DLR" in report.attacks) == (classes == 3)
    # f_i = x_i: an image falls where the two greatest of its first pixels are less than .2 apart.
    top = x.flatten(1)[:, :classes].topk(2).values
    expected = float((top[:, 0] - top[:, 1] > 0.2).float().mean())
    assert report.robust_accuracy == pytest.approx(expected, abs=1e-6)


def test_l2() -> None:
    """Linear logits, so that the distance to the boundary is known."""
    x = torch.rand(40, 1, 10, 10, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.3
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2, 100))
    report = quickly(model, x, model(x).argmax(1), eps=0.1, norm="L2")
    gap = (x.flatten(1)[:, 0] - x.flatten(1)[:, 1]).abs()
    expected = float((gap / 2**0.5 > 0.1).float().mean())
    assert report.robust_accuracy == pytest.approx(expected, abs=1e-6)
    assert report.consistent


def test_models_without_gradients_are_found_out(robust: nn.Module, data) -> None:
    """numpy inside is an error of torch's in every attack: here it is a finding."""

    class InNumpy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = robust

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.model(torch.from_numpy(np.round(x.numpy(), 3)))

    report = audit(InNumpy(), *data, eps=EPS)
    assert {"zero gradients", "transfer"} <= names(report)
    assert {c.name: c for c in report.checks}["zero gradients"].measured["margin"] == 1.0
    assert report.attacks["transfer"] < report.attacks["PGD"] - 0.1  # the taught surrogate's


def test_random_models_are_found_out(robust: nn.Module, data) -> None:
    """Noise is the oldest mask; a crash, or a pass by luck, would leave it on."""
    noisy = Changed(robust, lambda z: z + 0.5 * torch.randn_like(z))
    report = quickly(noisy, *data, eps=EPS)
    assert {"same answer", "AutoAttack's flags"} <= names(report)
    assert "PGD, mean of 8 draws" in report.attacks
    assert re.fullmatch(LINE, report.verdict)


def test_probabilities_are_audited_and_flagged(robust: nn.Module, data) -> None:
    """evaluate refuses them; an audit says what is wrong with them."""
    report = quickly(Changed(robust, lambda z: z.softmax(dim=1)), *data, eps=EPS)
    (check,) = (c for c in report.checks if c.name == "AutoAttack's flags")
    assert not check.passed
    assert "probability distribution" in check.measured["flags"][0]


def test_a_model_that_knows_nothing(data) -> None:
    """Nothing is right, so nothing can be attacked: no division by zero."""
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        y = (wrong(data[0]).argmax(1) + 1) % 10
    report = audit(wrong, data[0], y, eps=EPS)
    assert (report.clean_accuracy, report.worst, report.consistent) == (0.0, 0.0, True)


def test_progress_rises_to_one(robust: nn.Module, data) -> None:
    """A bar that runs backwards or stops short says nothing."""
    told: list[tuple[float, str]] = []
    quickly(robust, data[0][:20], data[1][:20], eps=EPS, progress=lambda *a: told.append(a))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert len(told) > 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm": "L1"}, "norm must be one of Linf, L2"),
        ({"eps": 8}, "eps must be at most 1"),
        ({"num_classes": 11}, "num_classes must be from 2 to the model's 10 outputs, not 11"),
        ({"num_classes": 5}, r"y must be in \[0, 4\]"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
        ({"y": torch.zeros(3)}, "class indices"),
        ({"x": torch.full((N, 1, 8, 8), 2.0)}, r"in \[0, 1\]"),
        ({"x": torch.rand(N, 1, 9, 9)}, "the model fails on an image"),
        ({"model": nn.Identity()}, "must return logits"),
        ({"model": print}, "nn.Module"),
    ],
)
def test_bad_arguments(robust: nn.Module, data, change, message: str) -> None:
    """One line that says what is allowed."""
    given = {"model": robust, "x": data[0], "y": data[1], "eps": EPS, **change}
    with pytest.raises(ValueError, match=message) as caught:
        audit(given.pop("model"), given.pop("x"), given.pop("y"), **given)
    assert "\n" not in str(caught.value)


def test_it_is_an_evaluation(robust: nn.Module, data) -> None:
    """By name, in evaluate: with virtual classes too, whose outputs it must see."""
    assert "audit" in rl.list_evaluations()
    wide = Changed(robust, lambda z: torch.cat([z, z[:, :2]], dim=1))
    asked = [{"name": "audit", "n": 30}]
    result = rl.evaluate(wide, data, attacks=(), eps=EPS, num_classes=10, evaluations=asked)
    found = result["audit"]
    assert {"consistent", "verdict", "worst", "checks"} <= set(found)
    assert (found["n"], found["virtual_classes"], found["num_classes"]) == (30, 2, 10)
    json.dumps(found, allow_nan=False)


def test_an_evaluation_of_no_images() -> None:
    """Refused where it is made, before an hour of other attacks."""
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        Audit(n=0)
