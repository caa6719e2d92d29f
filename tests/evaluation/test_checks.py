"""Without these, a robustness figure would be made of inputs that no eps fits, or of a model whose
outputs mislead every attack, and nobody would be told."""

import pytest
import torch
from torch import nn

from robustlabels.evaluation import check_classifier

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
    refused(model(), X * 255, r"in \[0, 1\], not in \[\d+.*, 2\d\d")
    refused(model(), X - 0.5, r"not in \[-0\.")
    refused(model(), torch.full_like(X, torch.nan), r"not in \[nan, nan\]")
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
