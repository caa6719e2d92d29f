"""A RUN folder's model, audited on its own test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from robustlabels import runs
from robustlabels.devices import named_device, on_device
from robustlabels.errors import BadValueError
from robustlabels.evaluation.accuracy import Progress
from robustlabels.evaluation.auditing.run import audit
from robustlabels.evaluation.run import drawn_images
from robustlabels.factories import make_dataset
from robustlabels.labels.distillation import MASKING_TEMPERATURE, LowTemperatureDistillation
from robustlabels.loading import OPAQUE, LoadedRun, load_run
from robustlabels.threat import check_eps_given

IMAGES = 200


def audit_run(
    path: str | Path,
    *,
    n: int | None = None,
    eps: str | float | None = None,
    norm: str | None = None,
    seed: int = 0,
    weights: str = "best",
    data_root: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The audit of a run, as :func:`robustlabels.evaluate` would draw its images.

    Args:
        path: the RUN folder.
        n: test images, drawn by ``seed``; 200, or all of fewer, by default.
        eps: radius; the run's by default.
        norm: "Linf" or "L2"; the run's by default.
        seed: of the choice of images and of every attack.
        weights: "best", "last" or "average".
        data_root: the folder of the data, if they have moved.
        device: where to compute; "auto" is a GPU if there is one.
        progress: called as ``progress(share, text)``.

    Returns:
        What JSON can hold: :meth:`AuditReport.to_dict`, and "run", "weights", "weights_sha256",
        "dataset", "note", "indices" (of the images in the test split), "device", "versions".

    Raises:
        ValueError: a bad argument.
        RuntimeError: no finished run, or one of a model or data given from Python.
    """
    loaded = load_run(path, weights)
    config = loaded.config
    if norm != "L1":  # audit refuses L1 with any radius
        check_eps_given(eps, norm, config.eps, config.norm)
    if config.dataset.startswith(OPAQUE):
        raise BadValueError(
            f"{path}: its data were given from Python; call robustlabels.evaluation.audit with them"
        )
    data = make_dataset(config.dataset, data_root or config.data_root, **config.data)
    there = named_device(device)
    count = min(IMAGES, len(data.test_split())) if n is None else n
    indices, x, y = drawn_images(data, count, seed)
    with on_device(loaded.model, there):
        report = audit(
            loaded.model,
            x,
            y,
            eps=config.eps if eps is None else eps,
            norm=config.norm if norm is None else norm,
            num_classes=loaded.num_classes,
            seed=seed,
            progress=progress,
        )
    return {
        **report.to_dict(),
        "run": str(path),
        "weights": weights,
        "weights_sha256": runs.sha256(loaded.path),
        "dataset": data.name,
        "note": "; ".join(note for note in (data.note, _temperature(loaded)) if note),
        "indices": indices.tolist(),
        "device": str(there),
        "versions": runs.versions(),
    }


def _temperature(loaded: LoadedRun) -> str:
    """What the LTD paper says of labels as soft as the run's."""
    scheme = getattr(loaded.scheme, "inner", loaded.scheme)
    if not isinstance(scheme, LowTemperatureDistillation):
        return ""
    if scheme.temperature < MASKING_TEMPERATURE:
        return ""
    return (
        f"trained on ltd at T = {scheme.temperature:g}: in its paper's table 4 AutoAttack leaves "
        "nothing at 15 and above (CIFAR-10), so do not trust PGD's figure"
    )
