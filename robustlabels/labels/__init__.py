"""The label schemes: pure functions of tensors, one file per paper."""

from __future__ import annotations

from robustlabels.hookspecs import Register, hookimpl
from robustlabels.labels.base import (
    LabelScheme,
    Mix,
    Scheme,
    complete,
    hard_target,
    labels_of,
    set_value_checks,
)
from robustlabels.labels.distillation import LowTemperatureDistillation
from robustlabels.labels.goibert import (
    AdversarialLabelSmoothing,
    BoltzmannLabelSmoothing,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
)
from robustlabels.labels.loss import LabelLoss, kl_divergence, soft_cross_entropy
from robustlabels.labels.mixing import AdversarialLabelling, MixUp
from robustlabels.labels.one_hot import OneHot
from robustlabels.labels.rectification import AnnealingRectification
from robustlabels.labels.smoothing import LabelSmoothing
from robustlabels.labels.virtual import VirtualSmoothing

__all__ = [
    "AdversarialLabelSmoothing",
    "AdversarialLabelling",
    "AnnealingRectification",
    "BoltzmannLabelSmoothing",
    "LabelLoss",
    "LabelScheme",
    "LabelSmoothing",
    "LowTemperatureDistillation",
    "Mix",
    "MixUp",
    "OneHot",
    "Scheme",
    "SecondBestLabelSmoothing",
    "StandardLabelSmoothing",
    "VirtualSmoothing",
    "complete",
    "hard_target",
    "kl_divergence",
    "labels_of",
    "set_value_checks",
    "soft_cross_entropy",
]

SCHEMES = {
    "one-hot": OneHot,
    "ls": LabelSmoothing,
    "sls": StandardLabelSmoothing,
    "als": AdversarialLabelSmoothing,
    "bls": BoltzmannLabelSmoothing,
    "sbls": SecondBestLabelSmoothing,
    "vs": VirtualSmoothing,
    "ltd": LowTemperatureDistillation,
    "adr": AnnealingRectification,
    "alps": AdversarialLabelling,
    "mixup": MixUp,
}


@hookimpl
def register_schemes(register: Register) -> None:
    """The eleven of the design's table."""
    for name, scheme in SCHEMES.items():
        register(name, scheme)
