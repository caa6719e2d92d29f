"""Without these, ECE could silently treat small logits as probabilities, or put certain
predictions in a bin of their own, and differ from its definition."""

import numpy as np
import pytest
import torch

from robustlabels.evaluation import expected_calibration_error


def by_definition(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    """Sum over bins of |accuracy - confidence| times the share of samples."""
    confidence, right = p.max(1), p.argmax(1) == y
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    return sum(
        abs(right[which == b].mean() - confidence[which == b].mean()) * (which == b).mean()
        for b in np.unique(which)
    )


def logits_of(confidence: list[float]) -> torch.Tensor:
    p = torch.tensor(confidence, dtype=torch.float64)
    return torch.stack([p, 1 - p], dim=1).log()


def test_by_hand():
    # bins of 0.2: {.55 right, .59 wrong}, {.7 right}, {.9 right, .95 wrong}
    z = logits_of([0.55, 0.59, 0.7, 0.9, 0.95])
    y = torch.tensor([0, 1, 0, 0, 1])
    expected = (2 * abs(0.5 - 0.57) + abs(1 - 0.7) + 2 * abs(0.5 - 0.925)) / 5
    assert expected_calibration_error(z, y, bins=5) == pytest.approx(expected, abs=1e-6)


def test_certain_predictions_share_the_last_bin():
    # confidences 1 and .96, one of them wrong: |.5 - .98|, and not (0 + 1 * .96) / 2 or the like
    z = torch.tensor([[800.0, 0.0], [float(np.log(0.96 / 0.04)), 0.0]])
    assert expected_calibration_error(z, torch.tensor([1, 0])) == pytest.approx(0.48, abs=1e-6)


def test_logits_between_0_and_1_are_still_logits():
    z, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    expected = 1 - float(np.e / (np.e + 1))
    assert expected_calibration_error(z, y) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_many_random_logits(bins):
    g = torch.Generator().manual_seed(0)
    z, y = 2 * torch.randn(500, 7, generator=g), torch.randint(7, (500,), generator=g)
    p = z.double().softmax(1).numpy()
    found = expected_calibration_error(z, y, bins)
    assert found == pytest.approx(by_definition(p, y.numpy(), bins), abs=1e-6)


@pytest.mark.parametrize("bins", [0, 1.5, True])
def test_impossible_bins_are_refused(bins):
    with pytest.raises(ValueError, match="bins must be an integer of at least 1"):
        expected_calibration_error(torch.zeros(1, 2), torch.tensor([0]), bins)
