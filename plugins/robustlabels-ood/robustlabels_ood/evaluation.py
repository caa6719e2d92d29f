"""The evaluation ``ood``: how well a model's scores tell its test images from those of other sets.

An evaluation is handed the K-class model; scores of virtual and reject classes need the one inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import robustlabels
from robustlabels.data import DataSet, Split, TensorSplit
from robustlabels.data.checks import check_images
from robustlabels.errors import BadValueError, DataError
from robustlabels.evaluation import Context, predict
from robustlabels.models import RealClasses
from robustlabels_ood.metrics import detection
from robustlabels_ood.scores import NEED_MORE, SCORES

TABLE_11 = ("textures", "places365", "isun", "lsun-crop", "lsun-resize", "svhn")
"""VS's six test sets for CIFAR."""
MIXTURE = "mixture"


class OODDetection:
    """AUROC, FPR-95 and AUPR of several scores, over several test sets and their mixture.

    Of each set the test split counts, or the training split where it has no other. In the mixture
    every image weighs the same, as in VS (table 11); with ``n`` so does every set.

    Args:
        sets: names, or tables {"name": ..., parameters}, or a mapping from what each shall be
            called to a name, a table, a ``DataSet`` or images (N, C, H, W), uint8 or floating in
            [0, 1]. VS's six by default.
        root: the folder that holds those that have no ``root`` of their own.
        scores: of ``msp``, ``msp-all``, ``energy``, ``virtual``; by default all that say something
            of the model.
        n: so many images of each set, drawn by the evaluation's seed; all by default.
    """

    def __init__(
        self,
        sets: Sequence[Any] | Mapping[str, Any] = TABLE_11,
        root: str | Path | None = None,
        scores: Sequence[str] | None = None,
        n: int | None = None,
    ) -> None:
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
            raise BadValueError(f"n must be an integer of at least 1, not {n!r}")
        self.scores = None if scores is None else _known(scores)
        self.splits = {name: _split(name, s, root) for name, s in _by_name(sets).items()}
        self.n = n

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, context: Context) -> dict[str, Any]:
        """``scores``: score -> set, or "mixture" -> the figures of
        :func:`robustlabels_ood.metrics.detection`; and ``n``: set, or "id" -> images."""
        whole = model.model if isinstance(model, RealClasses) else model
        inside = predict(whole, x, context.batch_size)
        outside = {
            name: self._logits(whole, name, split, tuple(x.shape[1:]), context)
            for name, split in self.splits.items()
        }
        if len(outside) > 1:
            outside[MIXTURE] = torch.cat(list(outside.values()))
        classes = context.num_classes
        names = self.scores
        if names is None:
            more = inside.shape[1] > classes
            names = [name for name in SCORES if more or name not in NEED_MORE]
        figures: dict[str, Any] = {}
        for name in names:
            score = SCORES[name]
            known = score(inside.double(), classes).numpy()
            figures[name] = {
                other: detection(known, score(logits.double(), classes).numpy())
                for other, logits in outside.items()
            }
        return {"scores": figures, "n": {"id": len(x), **{k: len(v) for k, v in outside.items()}}}

    def _logits(
        self, model: nn.Module, name: str, split: Split, shape: tuple[int, ...], context: Context
    ) -> Tensor:
        count = len(split)
        rows = torch.arange(count)
        if self.n is not None:
            if self.n > count:
                raise BadValueError(f"n is {self.n}, and {name!r} has {count} images")
            draw = torch.Generator().manual_seed(context.seed)
            rows = torch.randperm(count, generator=draw)[: self.n].sort().values
        found = []
        for x, _ in split.batches(rows.split(context.batch_size), torch.device("cpu")):
            if tuple(x.shape[1:]) != shape:
                raise DataError(
                    f"{name!r} has images {tuple(x.shape[1:])}, and the test set {shape}: most "
                    "sets take size= and grayscale= (channels= for noise)"
                )
            found.append(predict(model, x, context.batch_size))
        return torch.cat(found)


def _known(scores: Sequence[str]) -> list[str]:
    wrong = [scores] if isinstance(scores, str) else [s for s in scores if s not in SCORES]
    if wrong or not scores:
        raise BadValueError(f"scores must be a list of {', '.join(SCORES)}, not {scores!r}")
    return list(scores)


def _by_name(sets: Any) -> dict[str, Any]:
    """What each set is called -> what it is."""
    if isinstance(sets, str) or not isinstance(sets, Sequence | Mapping) or not sets:
        raise BadValueError(f"sets must be a list of data sets, or a mapping, not {sets!r}")
    if isinstance(sets, Mapping):
        named = [(str(name), given) for name, given in sets.items()]
    else:
        named = [(_name(given), given) for given in sets]
    names = [name for name, _ in named]
    twice = [name for name in names if names.count(name) > 1 or name in ("id", MIXTURE)]
    if twice:
        raise BadValueError(
            f"sets: {twice[0]!r} is there twice, or means something else; a mapping gives each a "
            "name of its own"
        )
    return dict(named)


def _name(given: Any) -> str:
    name = given.get("name") if isinstance(given, Mapping) else getattr(given, "name", given)
    if not isinstance(name, str):
        raise BadValueError(
            "sets: in a list each is a name, or a table with one; or give a mapping"
        )
    return name


def _split(name: str, given: Any, root: str | Path | None) -> Split:
    """The images that count."""
    if isinstance(given, Tensor | np.ndarray):
        x = check_images(given, f"the images of {name!r}")
        return TensorSplit(x, torch.zeros(len(x), dtype=torch.int64))
    if isinstance(given, str):
        given = {"name": given}
    if isinstance(given, Mapping):
        table = {"root": root, **given}
        if not isinstance(table.get("name"), str):
            raise BadValueError(f"sets: {name!r} needs the name of a data set")
        given = robustlabels.make_dataset(table.pop("name"), **table)
    if not isinstance(given, DataSet):
        raise BadValueError(
            f"sets: {name!r} must be a name, a table, a DataSet or images, not {type(given)}"
        )
    return given.train_split() if given.test is None else given.test
