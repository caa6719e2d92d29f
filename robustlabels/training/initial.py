"""Weights to start from: training that goes on from another model (ADR, table 9)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from robustlabels import runs
from robustlabels.errors import RobustLabelsWarning
from robustlabels.models import RealClasses
from robustlabels.models.zoo import is_zoo_name, zoo_classifier
from robustlabels.training.teachers import Teacher, check_classes, head_outputs


def start_from(model: nn.Module, source: Teacher, num_classes: int) -> str:
    """Put other weights into a model, in place.

    A head of as many outputs is taken whole. Of another, as virtual classes make it, the first K
    rows are taken, and the model's further rows stay as they were drawn.

    Args:
        model: of the architecture that the weights are of.
        source: as for teachers: a RUN folder (its best weights), a checkpoint file,
            ``robustbench:DATASET/THREAT/NAME``, or a module.
        num_classes: K, the data set's classes.

    Returns:
        SHA-256 of the file, or of the tensors where there is none.

    Raises:
        RunError: nothing is there, or it is of another architecture.
        ValueError: it is of other classes.
    """
    state, digest, classes = _weights(source)
    name = type(source).__name__ if isinstance(source, nn.Module) else str(source)
    if classes is not None:
        check_classes(f"init {name}", classes, num_classes)
    own = model.state_dict()
    state = runs.matched(state, own)
    outputs = head_outputs(state, own, num_classes)
    if outputs is not None:
        if classes is None and outputs != num_classes:
            warnings.warn(
                f"init {name} has {outputs} outputs; the first {num_classes} are taken for the "
                "data's classes",
                RobustLabelsWarning,
                stacklevel=2,
            )
        state = {k: _joined(v, own[k], num_classes) if k in own else v for k, v in state.items()}
    runs.load_into(model, state, name)
    return digest


def _weights(source: Teacher) -> tuple[Mapping[str, Tensor], str, int | None]:
    """The weights, their hash, and the classes that they are known to tell apart."""
    if is_zoo_name(source):
        model, classes = zoo_classifier(source)
        return model.state_dict(), runs.state_sha256(model.state_dict()), classes
    if isinstance(source, nn.Module):
        model = source.model if isinstance(source, RealClasses) else source
        return model.state_dict(), runs.state_sha256(model.state_dict()), None
    path, known = Path(source), None
    if path.is_dir():
        folder = runs.RunFolder.open(path)
        path, known = folder.weights("best"), folder.summary.get("num_classes")
    return runs.load_weights(path), runs.sha256(path), known


def _joined(theirs: Tensor, ours: Tensor, num_classes: int) -> Tensor:
    """The first K rows of theirs, and the others of ours, where they differ in rows."""
    if theirs.shape == ours.shape:
        return theirs
    joined = ours.clone()
    joined[:num_classes] = theirs[:num_classes].to(ours)
    return joined
