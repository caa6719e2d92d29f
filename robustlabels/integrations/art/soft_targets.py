"""The user's own soft labels under any scheme."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from robustlabels.errors import BadValueError
from robustlabels.integrations.art.numbered import Array


class SoftTargets:
    """A scheme whose classes are uncertain: a mixture of classes has that mixture of labels.

    ``one-hot`` gives the user's labels themselves, ``ls`` their smoothed version, and so on. The
    attack sees the most probable class.

    Args:
        scheme: a complete label scheme without mixing.
        rows: int64 (N,) sample numbers -> the samples' distributions (N, K), on their device.
    """

    def __init__(self, scheme: Any, rows: Callable[[Tensor], Tensor]) -> None:
        self._scheme, self._rows = scheme, rows
        self.needs = frozenset(scheme.needs) | {"index"}

    def __getattr__(self, name: str) -> Any:
        if name == "_scheme":  # a copy in the making
            raise AttributeError(name)
        return getattr(self._scheme, name)

    @property
    def check_values(self) -> bool:
        """The scheme's own."""
        return bool(self._scheme.check_values)

    @check_values.setter
    def check_values(self, wanted: bool) -> None:
        object.__setattr__(self._scheme, "check_values", wanted)

    def labels(
        self,
        y: Tensor,
        logits: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        progress: float = 1.0,
        *,
        index: Tensor,
    ) -> Tensor:
        """(N, num_outputs): the sum over classes of their share times their label."""
        extra: dict[str, Any] = {"index": index} if "index" in self._scheme.needs else {}

        def labels_for(target: Tensor) -> Tensor:
            labels: Tensor = self._scheme.labels(
                target,
                logits=logits,
                teacher_logits=teacher_logits,
                progress=progress,
                **extra,
            )
            return labels

        rows = self._rows(index)
        if getattr(self._scheme, "linear", False):
            return labels_for(rows)

        # One call per class of a row, most probable first: zero shares add nothing
        support = int((rows > 0).sum(dim=1).max()) if len(rows) else 0
        shares, classes = rows.topk(max(support, 1), dim=1)
        mixture = torch.zeros(())
        for share, target in zip(shares.T, classes.T, strict=True):
            labels = labels_for(target.to(y.device))
            mixture = mixture.to(labels) + share.to(labels).unsqueeze(1) * labels
        return mixture


def with_soft_targets(scheme: Any, soft: Array) -> SoftTargets:
    """``scheme`` under the soft labels (N, K) of N samples, by their index.

    Raises:
        ValueError: the scheme mixes labels itself.
    """
    if "mix" in scheme.needs:
        raise BadValueError("this scheme mixes labels itself: give y as class indices")
    table = torch.from_numpy(soft)
    return SoftTargets(scheme, lambda index: table.to(index.device)[index])
