"""An ART data generator as a training split of ours."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.numbered import read_labels
from robustlabels.integrations.art.unit_range import UnitRange


class GeneratorSplit:
    """Batches as the generator makes them; which samples are asked for is its own business.

    Args:
        generator: any of ART's.
        span: of the inputs.
        num_classes: K.

    Attributes:
        soft: (n, K), the present batch's soft labels, on its device; one-hot where y is hard.
    """

    def __init__(self, generator: Any, span: UnitRange, num_classes: int) -> None:
        if generator.size is None:
            raise BadValueError("the generator must know its size")
        self._generator, self._span, self._classes = generator, span, num_classes
        self.soft: Tensor = torch.empty(0)

    def __len__(self) -> int:
        return int(self._generator.size)

    def batches(
        self, indices: Iterable[Tensor], device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The generator's next batch for each tensor of indices."""
        for _ in indices:
            x, y = self._generator.get_batch()
            if len(x) == 1 < self._generator.batch_size:
                x, y = self._generator.get_batch()  # batch norm can't train on one sample
            classes, soft = read_labels(y, self._classes, "the generator's y")
            labels = torch.from_numpy(classes)
            hot = torch.nn.functional.one_hot(labels, self._classes).float()
            self.soft = (hot if soft is None else torch.from_numpy(soft)).to(device)
            unit = self._span.to_unit(x, "the generator's x")
            unit = unit.float() / 255 if unit.dtype == torch.uint8 else unit
            yield unit.to(device), labels.to(device)
