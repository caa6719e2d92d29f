"""What a data set is: a training and a test split, each served in batches of tensors."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from robustlabels.data.checks import check_labels, check_range
from robustlabels.errors import DataError
from robustlabels.randomness import derived_seed


class Split(Protocol):
    """Samples by index, in batches.

    ``batches`` yields, for each tensor of indices, ``x`` float32 (N, C, H, W) in [0, 1] and
    ``y`` int64 (N,), both on ``device``.
    """

    def __len__(self) -> int:
        """Number of samples."""

    def batches(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One batch for each tensor of indices, in their order."""


class TensorSplit:
    """A split that lives in memory: on the device, where it is first used, as uint8 if it can be.

    Args:
        x: (N, C, H, W), uint8 in [0, 255] or floating in [0, 1].
        y: int64 (N,).
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        if x.dim() != 4 or y.dim() != 1 or len(x) != len(y):
            raise DataError(
                f"images must be (N, C, H, W) and labels (N,), not {tuple(x.shape)} "
                f"and {tuple(y.shape)}"
            )
        self.x = x if x.dtype == torch.uint8 else x.float()
        self.y = y.long()

    def __len__(self) -> int:
        return len(self.y)

    def batches(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Split`."""
        self.x, self.y = self.x.to(device), self.y.to(device)
        for index in indices:
            here = index.to(device, non_blocking=True)  # a plain copy waits for all GPU work
            x = self.x[here]
            yield (x.float().div_(255) if x.dtype == torch.uint8 else x), self.y[here]


class MapSplit:
    """A split behind a map-style torch data set, read by worker processes.

    Args:
        dataset: ``dataset[i]`` gives an image tensor (C, H, W), uint8 or floating in [0, 1], and
            a class index.
        num_workers: worker processes; 0 reads in this one.
        collate_fn: as in ``torch.utils.data.DataLoader``.
        num_classes: K, where each batch's labels are to be checked.
    """

    def __init__(
        self,
        dataset: Any,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        num_classes: int | None = None,
    ) -> None:
        self.dataset = dataset
        self.num_workers = num_workers
        self.collate_fn = collate_fn
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Split`."""
        loader = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=[index.tolist() for index in indices],
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
            pin_memory=device.type == "cuda",
        )
        try:
            for x, y in loader:
                labels = check_labels(y, self.num_classes, "the labels of a batch")
                checked = check_range(x, "the images of a batch") if x.is_floating_point() else x
                images = checked.to(device, non_blocking=True)
                if images.dtype == torch.uint8:
                    images = images.float().div_(255)
                yield images.float(), labels.to(device, non_blocking=True)
        except DataError as error:
            # one that a worker process raised carries its traceback; its last line is the message
            last = str(error).strip().splitlines()[-1]
            raise DataError(last.removeprefix(f"{DataError.__module__}.DataError: ")) from error


class JoinedSplit:
    """Two splits one after the other; each batch must be of one of them.

    Args:
        first: Split with the indices from 0 on.
        second: Split with the indices from ``len(first)`` on.
    """

    def __init__(self, first: Split, second: Split) -> None:
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batches(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See :class:`Split`."""
        border = len(self.first)
        for late, group in itertools.groupby(indices, lambda index: bool((index >= border).any())):
            if late:
                yield from self.second.batches([index - border for index in group], device)
            else:
                yield from self.first.batches(group, device)


def joined(first: Split, second: Split) -> Split:
    """Return two splits as one, in memory where both are."""
    if not isinstance(first, TensorSplit) or not isinstance(second, TensorSplit):
        return JoinedSplit(first, second)
    if first.x.dtype != second.x.dtype:
        return JoinedSplit(first, second)
    return TensorSplit(
        torch.cat([first.x, second.x.to(first.x.device)]),
        torch.cat([first.y, second.y.to(first.y.device)]),
    )


@dataclass(frozen=True)
class DataSet:
    """A data set, ready to train on and to be judged on.

    Attributes:
        name: as registered, or "user".
        train: the training split, or None where there is none.
        test: the test split, or None; never used to choose a checkpoint.
        num_classes: K.
        input_shape: (C, H, W).
        mean: per channel, of the training images in [0, 1]; empty if unknown.
        std: likewise.
        classes: the classes' names; empty if unknown.
        flip: whether a mirrored image is still the same class (digits are not).
        note: what a reader of its figures must know ("" if nothing).
        opaque: given from Python, as tensors, a data set or a loader: no config can name it.
    """

    name: str
    train: Split | None
    test: Split | None
    num_classes: int
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: Sequence[str] = ()
    flip: bool = False
    note: str = ""
    opaque: bool = False

    def train_split(self) -> Split:
        """The training split; a DataError if there is none."""
        return self._required(self.train, "training")

    def test_split(self) -> Split:
        """The test split; a DataError if there is none."""
        return self._required(self.test, "test")

    def _required(self, split: Split | None, what: str) -> Split:
        if split is None:
            raise DataError(f"data set {self.name!r} has no {what} split")
        return split


def hold_out(n: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """The indices of a split of n samples that are trained on, and the ``count`` held-out ones.

    They follow from n, the count and the run's seed alone, so an evaluation can find them again.
    """
    generator = torch.Generator().manual_seed(derived_seed(seed, "validation"))
    order = torch.randperm(n, generator=generator)
    return order[count:].sort().values, order[:count].sort().values


def data_hash(split: Split) -> str | None:
    """SHA-256 of a split's images and labels; None for one that is not in memory."""
    if not isinstance(split, TensorSplit):
        return None
    digest = hashlib.sha256()
    for tensor in (split.x, split.y):
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()
