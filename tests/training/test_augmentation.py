"""Random crops and mirror images on the device."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from robustlabels.training.augmentation import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def offsets(image: np.ndarray, crop: np.ndarray, padding: int) -> list[tuple[int, int]]:
    """Where in the zero-padded image the crop may come from."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
    return [
        (top, left)
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
        if np.array_equal(padded[:, top : top + height, left : left + width], crop)
    ]


def test_every_sample_is_a_window_of_its_own_padded_image() -> None:
    """Mixed-up samples, channels or axes would still look like noise to a loss curve."""
    x = torch.rand(300, 2, 5, 7, generator=generator(1)) + 0.1
    y = augment(x, 2, False, generator())
    assert y.shape == x.shape
    assert y.is_contiguous()
    found = [offsets(a.numpy(), b.numpy(), 2) for a, b in zip(x, y, strict=True)]
    assert all(len(f) == 1 for f in found)
    counts = {(t, left): 0 for t in range(5) for left in range(5)}
    for ((top, left),) in found:
        counts[top, left] += 1
    # 25 places, 300 draws: each expected 12 times
    assert min(counts.values()) >= 1
    assert max(counts.values()) <= 36


def test_flip_is_exact_and_of_half_the_samples() -> None:
    """Upside down, or the whole batch at once, would be another augmentation."""
    x = torch.rand(400, 3, 4, 5, generator=generator(1))
    y = augment(x, 0, True, generator())
    same = (y == x).flatten(1).all(dim=1)
    mirrored = (y == torch.from_numpy(x.numpy()[:, :, :, ::-1].copy())).flatten(1).all(dim=1)
    assert torch.equal(same, ~mirrored)
    assert 150 < int(mirrored.sum()) < 250


def test_crop_and_flip_together() -> None:
    """One must not undo the other."""
    x = torch.rand(60, 1, 4, 4, generator=generator(1)) + 0.1
    y = augment(x, 1, True, generator())
    kinds = set()
    for a, b in zip(x.numpy(), y.numpy(), strict=True):
        straight, turned = offsets(a, b, 1), offsets(a, b[:, :, ::-1], 1)
        assert len(straight) + len(turned) == 1
        kinds.add(bool(straight))
    assert kinds == {True, False}


def test_nothing_asked_nothing_done() -> None:
    """Digits must not be mirrored."""
    x = torch.rand(3, 1, 4, 4)
    assert augment(x, 0, False, generator()) is x


@pytest.mark.parametrize(("padding", "flip"), [(2, False), (0, True), (2, True)])
def test_the_generator_decides_and_nothing_else(padding: int, flip: bool) -> None:
    """Resuming exactly rests on it; and the caller's own random numbers must not move."""
    x = torch.rand(16, 1, 6, 6)
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = torch.get_rng_state()
    first = augment(x, padding, flip, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(augment(x, padding, flip, generator(3)), first)
    assert not torch.equal(augment(x, padding, flip, generator(4)), first)


def test_the_input_is_not_changed() -> None:
    """It may be the data set itself."""
    x = torch.rand(16, 1, 6, 6)
    before = x.clone()
    augment(x, 2, True, generator()).add_(1)
    assert torch.equal(x, before)


def test_channels_last_and_one_sample() -> None:
    """Other memory layouts, and the smallest batch."""
    x = torch.rand(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    y = augment(x, 1, True, generator(2))
    z = augment(x.contiguous(), 1, True, generator(2))
    assert torch.equal(y, z)
