"""Without these, a robustness figure would be made of inputs that no eps fits, or of a model whose
outputs mislead every attack, and nobody would be told."""

import cProfile
import pstats
import sys

import pytest
import torch
from torch import nn

from robustlabels.evaluation import check_classifier
from robustlabels.evaluation.checks import check_input_range, check_mode, optimises

X = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def model(outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, outputs))


def refused(net: nn.Module, x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_classifier(net, x, num_classes=4)
    assert "\n" not in str(error.value)


def test_a_sound_model_passes_and_tells_its_width():
    assert check_classifier(model(), X, 4) == 4
    assert check_classifier(model(6), X, 4) == 6


def test_inputs_outside_0_1_are_named():
    refused(model(), X * 255, r"in \[0, 1\], but lie in \[\d+.*, 2\d\d")
    refused(model(), X - 0.5, r"but lie in \[-0\.")
    refused(model(), torch.full_like(X, torch.nan), r"but lie in \[nan, nan\]")
    refused(model(), (X * 255).byte(), "floating in .*uint8")
    refused(model(), X[0], r"\(N, C, H, W\)")
    refused(model(), X[:0], "N of at least 1")


def test_probabilities_are_refused_and_log_probabilities_are_not():
    refused(nn.Sequential(model(), nn.Softmax(1)), X, "returns probabilities; return logits")
    assert check_classifier(nn.Sequential(model(), nn.LogSoftmax(1)), X, 4) == 4


def test_probabilities_over_more_than_k_outputs_are_refused_too():
    refused(nn.Sequential(model(8), nn.Softmax(1)), X, "returns probabilities")


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * torch.randn_like(x)


def test_randomness_in_eval_mode_is_refused_and_dropout_is_none():
    refused(nn.Sequential(model(), Noise()), X, "other logits .* the second time")
    assert check_classifier(nn.Sequential(model(), nn.Dropout(0.5)).train(), X, 4) == 4


def test_shapes_and_values_of_the_logits():
    refused(model(3), X, "at least 4 logits, one a class, not 3")
    refused(nn.Identity(), X, r"must return logits \(3, K\)")
    broken = model()
    broken[1].bias.data[1] = torch.inf
    refused(broken, X, "finite")


def test_a_model_for_other_inputs_is_refused_in_one_line():
    refused(model(), torch.rand(2, 3, 8, 8), r"fails on inputs \(2, 3, 8, 8\): RuntimeError")


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x


def test_a_model_that_returns_a_pair_is_refused_in_one_line():
    refused(Pair(), X, "fails on inputs .*AttributeError")


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(1), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x))


def test_train_mode_is_refused_where_it_changes_the_logits():
    """The figures of a model in train mode are those of another model, at random."""
    with pytest.raises(ValueError, match=r"in train mode.*call model\.eval"):
        check_mode(nn.Sequential(nn.Dropout(0.5), model()).train(), X)
    net = nn.Sequential(Counting(), model()).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="in train mode"):
        check_mode(net, X)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in net.modules())
    check_mode(net.eval(), X)
    check_mode(model().train(), X)  # torch's default, where nothing depends on it


class Wants(nn.Module):
    """Ten classes by brightness, for images in a range of its own."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = (x.mean(dim=(1, 2, 3)) - self.low) / (self.high - self.low)
        middles = (torch.arange(10) + 0.5) / 10
        return -((bright[:, None] - middles) ** 2)


def test_a_model_of_another_input_range_is_refused():
    """An eps of 8/255 means nothing to a model that takes pixels from 0 to 255."""
    y = torch.arange(200) % 10
    x = ((y + 0.5) / 10).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()
    check_input_range(Wants(0, 1), x, y)
    for low, high, said in (
        (0, 255, r"\[0, 255\]"),
        (-1, 1, r"\[-1, 1\]"),
        (-1.74, 1.74, "standardised"),  # 10 even levels have a deviation of .287
    ):
        with pytest.raises(ValueError, match=f"seems to want images .*{said}.*10.*% in"):
            check_input_range(Wants(low, high), x, y)
    # A bad model is not one of another range, also where images are sorted by class.
    torch.manual_seed(0)
    for seed in range(20):
        torch.manual_seed(seed)
        poor = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
        check_input_range(poor, torch.rand(200, 3, 4, 4), y)
        check_input_range(poor, torch.rand(200, 3, 4, 4), torch.zeros_like(y))


class Optimising(nn.Module):
    """A defence that takes a gradient step on its input before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (grad,) = torch.autograd.grad(self.net(leaf).logsumexp(1).sum(), leaf)
        return self.net(x + 0.1 * grad)


def test_a_forward_pass_that_optimises_is_found_out():
    assert optimises(Optimising(), X)
    assert not optimises(model(), X)


def test_looking_for_one_leaves_a_profiler_alone():
    """``python -m cProfile`` of an evaluation would end in a TypeError, or lose what follows."""
    profiler = cProfile.Profile()
    profiler.enable()
    before = sys.getprofile()  # the profiler itself up to Python 3.11
    try:
        found = optimises(Optimising(), X)
        after = sys.getprofile()
        model()(X)
    finally:
        profiler.disable()
    assert found
    assert after is before
    seen = {function[2] for function in pstats.Stats(profiler).stats}
    assert "_wrapped_call_impl" in seen
