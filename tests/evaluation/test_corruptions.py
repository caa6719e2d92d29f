"""Without these, a corruption's severities could be mixed up, or a subset be another than
RobustBench's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.errors import DataError

N, K = 20, 4


class Brightest(nn.Module):
    """Answers with the row of the image that is the brightest."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(1, 3)) * 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Severity s spoils the first 2 s images of noise, and 3 s of fog."""
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    y = np.arange(N) % K
    np.save(folder / "labels.npy", np.tile(y, 5))
    for name, spoiled in (("gaussian_noise", 2), ("fog", 3)):
        parts = []
        for severity in range(1, 6):
            x = np.zeros((N, K, K, 3), np.uint8)
            row = y.copy()
            row[: spoiled * severity] = (row[: spoiled * severity] + 1) % K
            x[np.arange(N), row] = 200
            parts.append(x)
        np.save(folder / f"{name}.npy", np.concatenate(parts))
    return folder


def judge(root: Path, **options: object) -> dict[str, object]:
    x, y = torch.rand(8, 3, K, K), torch.arange(8) % K
    table = {"name": "corruptions", "root": str(root), **options}
    result = rl.evaluate(Brightest(), (x, y), (), num_classes=K, evaluations=[table])
    return result["evaluations"]["corruptions"]


def test_the_mean_over_all_by_hand(root: Path) -> None:
    found = judge(root, corruptions=["gaussian_noise", "fog"])
    # noise: 1 - 2 s / 20, mean over s = .7; fog: 1 - 3 s / 20, mean = .55
    assert found["per_corruption"] == pytest.approx({"gaussian_noise": 0.7, "fog": 0.55})
    assert found["accuracy"] == pytest.approx(0.625)
    severities = {str(s): 1 - 2.5 * s / 20 for s in range(1, 6)}
    assert found["per_severity"] == pytest.approx(severities)
    assert found["n"] == N


def test_the_first_images_of_some_severities(root: Path) -> None:
    found = judge(root, corruptions=["fog"], severities=[2], n=10)
    assert (found["accuracy"], found["n"]) == (0.4, 10)


def test_images_in_folders(tmp_path: Path) -> None:
    """ImageNet-C's layout."""
    pytest.importorskip("torchvision")
    for label in range(K):
        for severity in (1, 2):
            folder = tmp_path / "C" / "snow" / str(severity) / f"n{label}"
            folder.mkdir(parents=True)
            pixels = np.zeros((K, K, 3), np.uint8)
            pixels[(label + severity - 1) % K] = 200
            Image.fromarray(pixels).save(folder / "a.png")
    found = judge(tmp_path / "C", corruptions=["snow"], severities=[1, 2])
    assert found["per_severity"] == {"1": 1.0, "2": 0.0}


def test_what_is_refused(root: Path, tmp_path: Path) -> None:
    for options, error, words in (
        ({}, DataError, "lacks shot_noise.npy"),
        ({"severities": [6]}, ValueError, "severities must be from 1 to 5"),
        ({"corruptions": "fog"}, ValueError, "must be a list of names"),
        ({"n": 0}, ValueError, "n must be at least 1"),
    ):
        with pytest.raises(error, match=words) as caught:
            judge(root, **options)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"neither fog\.npy and labels\.npy nor fog/1"):
        judge(tmp_path, corruptions=["fog"])
    np.save(root / "labels.npy", np.arange(5 * N) % 9)
    with pytest.raises(ValueError, match=r"labels\.npy must be in \[0, 3\], but number 4 is 4"):
        judge(root, corruptions=["fog"])
    np.save(root / "labels.npy", np.arange(3))
    with pytest.raises(DataError, match="as many rows as"):
        judge(root, corruptions=["fog"])


def test_a_missing_class_folder_does_not_shift_labels(tmp_path: Path) -> None:
    """Labels by position gave accuracy 0 for a perfect model."""
    pytest.importorskip("torchvision")
    for part in ("train", "test", "C/snow/1"):
        for label, name in enumerate("abcd"):
            if part.startswith("C") and name == "a":
                continue
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            pixels = np.zeros((K, K, 3), np.uint8)
            pixels[label] = 200
            Image.fromarray(pixels).save(folder / "a.png")
    table = {"name": "corruptions", "root": str(tmp_path / "C"), "corruptions": ["snow"]}
    table["severities"] = [1]
    result = rl.evaluate(Brightest(), f"folder:{tmp_path}", (), evaluations=[table])
    assert result["evaluations"]["corruptions"]["accuracy"] == 1.0

    with pytest.raises(DataError, match="has 3 class folders, and the data set 4 classes"):
        judge(tmp_path / "C", corruptions=["snow"], severities=[1])
    (tmp_path / "C/snow/1/b").rename(tmp_path / "C/snow/1/e")
    with pytest.raises(DataError, match="e is not a class of the data set, whose classes are a, b"):
        rl.evaluate(Brightest(), f"folder:{tmp_path}", (), evaluations=[table])
