"""Extra data of a run: where they come from, what their labels are, how many are in a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustlabels import processes
from robustlabels.config import Config, Named
from robustlabels.data import DataSet, MapSplit, Split, TensorSplit, check_labels
from robustlabels.data.checks import CHUNK
from robustlabels.data.extra import ExtraData, of_dataset, unlabelled_npz
from robustlabels.errors import BadValueError, DataError, RobustLabelsWarning
from robustlabels.factories import make_dataset

LABELS_FILE = "extra_labels.safetensors"
USUAL_FRACTION = 0.5


@dataclass(frozen=True)
class Extra:
    """Extra data, ready to be drawn from.

    Attributes:
        data: with the labels that are used.
        mixed: whether they go into the batch, or beside it as ``step.extra``.
        main: samples of the training split in a full batch.
        count: extra samples in a full batch.
        pseudo: the pseudo-labels, int64 (N,), where the labels are these.
    """

    data: ExtraData
    mixed: bool
    main: int
    count: int
    pseudo: Tensor | None = None


def resolved(config: Config) -> Config:
    """The config with the usual share of extra data, where there are some.

    Raises:
        ValueError: a setting of extra data without extra data.
    """
    if config.extra is not None:
        fraction = USUAL_FRACTION if config.extra_fraction is None else config.extra_fraction
        return config.model_copy(update={"extra_fraction": fraction})
    for field in ("extra_fraction", "extra_labels", "extra_teacher"):
        if getattr(config, field) is not None:
            raise BadValueError(f"{field} needs extra, the extra data")
    return config


def load_named(named: Named, data_root: str | None) -> ExtraData:
    """The extra data that a config names; ``root`` beside the name overrides the data's."""
    params = {"root": data_root, **named.params}
    if named.name.startswith("npz:") and set(params) <= {"root", "layout"}:
        found = unlabelled_npz(named.name.removeprefix("npz:"), **params)
        if found is not None:
            return found
    root = params.pop("root")
    return of_dataset(make_dataset(named.name, root, **params))


def batch_sizes(config: Config) -> tuple[int, int]:
    """Samples of the training split and extra ones in a full batch, all processes' together.

    Raises:
        ValueError: ``extra_fraction`` leaves one of them, or a process, without a sample.
    """
    here = processes.place()[1]
    size = config.batch_size * here
    if config.extra is None or config.extra_fraction is None:
        return size, 0
    count = round(config.extra_fraction * size)
    if not here <= count <= size - here:
        beside = f" in each of {here} processes" if here > 1 else ""
        raise BadValueError(
            f"extra_fraction {config.extra_fraction} of batch_size {config.batch_size}{beside} is "
            f"{count} samples, so one kind has none in a batch: raise batch_size, or set another "
            "share"
        )
    return size - count, count


def prepare_extra(
    config: Config,
    given: ExtraData | None,
    pseudo: Tensor | None,
    data: DataSet,
    *,
    held_out: Tensor,
    mixed: bool,
    teacher: Callable[[], nn.Module],
    device: torch.device,
) -> Extra | None:
    """The run's extra data, with their labels, or None.

    Args:
        config: with :func:`resolved` settings.
        given: extra data from Python, instead of the config's.
        pseudo: pseudo-labels that the run made before it was interrupted.
        data: the training data.
        held_out: the places of those that choose the checkpoint.
        mixed: whether they go into the batch.
        teacher: gives the model that makes pseudo-labels.
        device: where it is.

    Raises:
        ValueError: the images don't fit, or the labels that are asked for are not there.
    """
    if config.extra is None:
        return None
    extra = load_named(config.extra, config.data_root) if given is None else given
    _check_images(extra, data)
    _warn_of_judged_images(extra, data, held_out)
    main, count = batch_sizes(config)
    if config.extra_labels == "pseudo":
        if pseudo is None:
            pseudo = processes.first_only(
                lambda: pseudo_labels(teacher(), extra, config.batch_size, device)
            )
        elif len(pseudo) != len(extra):
            raise DataError(f"{LABELS_FILE} has {len(pseudo)} labels for {len(extra)} images")
        return Extra(extra.with_labels(pseudo), mixed, main, count, pseudo)
    if config.extra_teacher is not None:
        raise BadValueError("extra_teacher is for extra_labels='pseudo', which is not set")
    if mixed or config.extra_labels == "own":
        if not extra.labelled:
            raise DataError(f"the extra data {extra.name!r} have no labels: {_ASK}")
        if mixed:
            _check_classes(extra, data)
    return Extra(extra, mixed, main, count)


_ASK = "extra_labels='pseudo' has a teacher label them (--extra-labels, --extra-teacher)"


def _check_classes(extra: ExtraData, data: DataSet) -> None:
    if isinstance(extra.split, TensorSplit):
        what = f"the labels of the extra data {extra.name!r}"
        check_labels(extra.split.y, data.num_classes, what)
    elif extra.num_classes is not None and extra.num_classes > data.num_classes:
        raise DataError(
            f"the extra data {extra.name!r} have {extra.num_classes} classes, and {data.name!r} "
            f"has {data.num_classes}: {_ASK}"
        )
    elif isinstance(extra.split, MapSplit):
        extra.split.num_classes = data.num_classes


def _check_images(extra: ExtraData, data: DataSet) -> None:
    if extra.input_shape != tuple(data.input_shape):
        raise DataError(
            f"the extra data {extra.name!r} have images {extra.input_shape}, and {data.name!r} "
            f"has {tuple(data.input_shape)}: resize them first"
        )
    if len(extra) == 0:
        raise DataError(f"the extra data {extra.name!r} are empty")


def _warn_of_judged_images(extra: ExtraData, data: DataSet, held_out: Tensor) -> None:
    """80 Million Tiny Images, a usual source, contains CIFAR-10's test set (Carmon et al. 2019)."""
    judged = {"test": _images(data.test), "held-out": _images(data.train, held_out)}
    ours = list(_digests(_images(extra.split)))
    for what, images in judged.items():
        theirs = set(_digests(images))
        found = sum(digest in theirs for digest in ours)
        if found:
            warnings.warn(
                f"{found} of the {len(extra)} extra images are {what} images of {data.name!r}: "
                "figures would be of images that were trained on",
                RobustLabelsWarning,
                stacklevel=2,
            )


def _images(split: Split | None, indices: Tensor | None = None) -> Tensor:
    """Those that are in memory; the others can't be looked at in time."""
    if not isinstance(split, TensorSplit):
        return torch.empty(0)
    return split.x if indices is None else split.x[indices.to(split.x.device)]


def _digests(images: Tensor) -> Iterator[int]:
    """A hash of each image in 8 bits."""
    for x in images.split(CHUNK):
        pixels = x if x.dtype == torch.uint8 else (x * 255).round().to(torch.uint8)
        for image in pixels.cpu().numpy():
            yield hash(image.tobytes())


@torch.no_grad()
def pseudo_labels(
    teacher: nn.Module, extra: ExtraData, batch_size: int, device: torch.device
) -> Tensor:
    """The teacher's most probable class for each image, not augmented; int64 (N,).

    Args:
        teacher: images -> logits (N, K), in eval mode, on the device (Carmon et al. 2019: trained
            naturally).
        extra: the images; their own labels are not looked at.
        batch_size: of the teacher's passes.
        device: where to compute.

    Raises:
        ValueError: NaN logits, which have no most probable class.
    """
    indices = torch.arange(len(extra)).split(max(batch_size, 256))
    labels = []
    unknown = 0
    for x, _ in extra.split.batches(indices, device):
        logits = teacher(x)
        unknown += int(logits.isnan().any(dim=1).sum())
        labels.append(logits.argmax(dim=1).cpu())

    if unknown:
        raise BadValueError(
            f"the teacher's logits are NaN for {unknown} of the {len(extra)} images of "
            f"{extra.name!r}, so these have no pseudo-label: remove these images or use another "
            "teacher"
        )
    return torch.cat(labels)


def extra_facts(extra: Extra | None, digest: Any) -> dict[str, Any] | None:
    """What run.json says of it; ``digest(split)`` hashes a split."""
    if extra is None:
        return None
    own = "own" if extra.data.labelled else None
    return {
        "name": extra.data.name,
        "samples": len(extra.data),
        "labels": own if extra.pseudo is None else "pseudo",
        "mixed": extra.mixed,
        "in_a_batch": extra.count,
        "sha256": digest(extra.data.split),
    }
