"""Without these, accuracies could be of another mode, another precision, or wrong by the way ties
and NaN fall; and a robust accuracy could not be told from what mathematics says it is."""

import pytest
import torch
from torch import Tensor, nn

from robustlabels.attacks import PGD
from robustlabels.evaluation import correct, predict, robust_accuracy, top_k_accuracy
from robustlabels.evaluation.accuracy import wilson_interval


def test_top_k_by_hand():
    z = torch.tensor(
        [
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # y = 4: fifth
            [6.0, 5.0, 4.0, 3.0, 2.0, 1.0],  # y = 5: sixth
            [0.0, 9.0, 0.0, 0.0, 0.0, 0.0],  # y = 1: first
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],  # y = 4: second
        ]
    )
    y = torch.tensor([4, 5, 1, 4])
    assert [top_k_accuracy(z, y, k) for k in (1, 2, 4, 5, 6)] == [0.25, 0.5, 0.5, 0.75, 1.0]


def test_a_constant_classifier_is_right_about_k_classes_only():
    z, y = torch.zeros(10, 10), torch.arange(10)
    assert top_k_accuracy(z, y, 1) == 0.1
    assert top_k_accuracy(z, y, 5) == 0.5


def test_nan_is_never_correct():
    z = torch.tensor([[torch.nan, 0.0], [0.0, torch.nan], [1.0, 0.0]])
    assert correct(z, torch.tensor([0, 1, 0])).tolist() == [False, False, True]
    assert top_k_accuracy(z, torch.tensor([0, 1, 0]), 2) == 1 / 3


@pytest.mark.parametrize("k", [0, 3])
def test_impossible_k_is_refused(k):
    with pytest.raises(ValueError, match="k must be from 1 to 2"):
        top_k_accuracy(torch.zeros(1, 2), torch.tensor([0]), k)


def test_no_samples_are_refused_rather_than_scored():
    with pytest.raises(ValueError, match="no samples"):
        top_k_accuracy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 1)


def test_predict_judges_in_eval_mode_in_float32_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    frozen = nn.BatchNorm2d(2).eval()
    model = nn.Sequential(nn.BatchNorm2d(2), frozen, nn.Dropout(0.9), nn.Flatten(), nn.Linear(8, 3))
    model.train()
    frozen.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.rand(5, 2, 2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = predict(model, x, batch_size=2)
    assert [m.training for m in model] == [True, False, True, True, True]
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert z.dtype == torch.float32
    assert not z.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(z, model.eval()(x), rtol=1e-6, atol=1e-6)


class Linear(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.mark.parametrize(("norm", "dual"), [("Linf", 1.0), ("L2", 2.0)])
def test_pgd_on_two_linear_classes_finds_the_exact_robust_accuracy(norm, dual):
    # z_y - z_other falls by eps * |w_y - w_other|_dual at most, and [0, 1] is not in the way
    g = torch.Generator().manual_seed(1)
    w = torch.randn(2, 16, generator=g)
    x = 0.4 + 0.2 * torch.rand(200, 1, 4, 4, generator=g)
    model = Linear(w)
    z = model(x).detach()
    y = z.argmax(1)
    y[:20] = 1 - y[:20]  # wrong from the start: no attack can make these right
    margin = z.gather(1, y[:, None])[:, 0] - z.gather(1, 1 - y[:, None])[:, 0]
    radius = margin / (w[0] - w[1]).norm(p=dual)
    middle = radius.sort().values[80:120]
    widest = int(middle.diff().argmax())
    eps = float((middle[widest] + middle[widest + 1]) / 2)  # near no image's boundary
    assert eps < 0.4
    expected = int((radius > eps).sum()) / 200
    assert 0.3 < expected < 0.6
    told: list[float] = []
    attack = PGD(eps, norm, steps=40)
    found, x_adv = robust_accuracy(
        model, attack, x, y, batch_size=64, progress=lambda done, _: told.append(done)
    )
    assert found == expected
    assert x_adv.shape == x.shape
    assert told == [64 / 200, 128 / 200, 192 / 200, 1.0]


def test_an_attack_that_mends_a_wrong_answer_gains_nothing():
    model = Linear(torch.tensor([[1.0], [-1.0]]))
    x = torch.full((2, 1, 1, 1), 0.5)

    def helpful(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.where(y.view(-1, 1, 1, 1) == 0, 1.0, -1.0)

    found, _ = robust_accuracy(model, helpful, x, torch.tensor([0, 1]))
    assert found == 0.5


def test_an_attack_that_changes_the_shape_is_refused():
    model = Linear(torch.eye(2))
    x = torch.rand(2, 1, 1, 2)
    with pytest.raises(ValueError, match=r"returned \(2, 2\) for inputs \(2, 1, 1, 2\)"):
        robust_accuracy(model, lambda m, x, y: x.flatten(1), x, torch.tensor([0, 1]))


def test_wilson_interval_by_an_independent_implementation():
    """scipy.stats.binomtest(k, n).proportion_ci(method="wilson")"""
    from scipy.stats import binomtest

    for k, n in ((0, 10), (7, 20), (836, 1000), (20, 20)):
        found = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson_interval(k / n, n) == pytest.approx((found.low, found.high), abs=1e-12)
