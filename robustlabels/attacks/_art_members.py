"""The attacks of ART that serve here, and what each of them needs to be called rightly.

Names and facts only: nothing of ART is imported. ``benchmarks/art_attacks_table.py`` measures what
is said here, and ``docs/art-attacks.md`` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robustlabels.threat import NORMS


@dataclass(frozen=True)
class Member:
    """How one attack is called.

    Attributes:
        norms: of its ball, or of the distance that it makes small; none for other distances.
        minimal: it has no radius, and looks for the nearest misclassified input instead.
        soft: soft labels reach its loss.
        for_training: bounded by eps, by gradients, at no more than some hundred passes.
        labels: whether ``y`` is the true class to it. Where it means a target, or turns the attack
            into a targeted one, nothing is given, and the model's prediction counts.
        probabilities: it expects them from the model, not logits.
        at_a_time: images that an evaluation hands over at once, so that it can report: 1 where ART
            itself goes image by image, some where it is slow. None: as many as it likes.
        alone: it must be given one image at a time.
        defaults: parameters that differ from ART's defaults.
    """

    norms: tuple[str, ...] = NORMS
    minimal: bool = False
    soft: bool = False
    for_training: bool = False
    labels: bool = True
    probabilities: bool = False
    at_a_time: int | None = None
    alone: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_PGD = Member(soft=True, for_training=True)
_SOME = 25
_LINF, _L2 = ("Linf",), ("L2",)
# For Linf they take the direction's sign and drop it: their steps are as small as the gradient.
_NOT_LINF = ("L2", "L1")
_GRID = {"max_translation": 10.0, "num_translations": 5, "max_rotation": 30.0, "num_rotations": 7}
_COARSE = {"finite_diff": 1e-3}  # ART's 1e-6 is lost in float32

MEMBERS: dict[str, Member] = {
    "AutoAttack": Member(at_a_time=_SOME),
    "AutoConjugateGradient": Member(_NOT_LINF, soft=True),
    "AutoProjectedGradientDescent": Member(soft=True),
    "BasicIterativeMethod": Member(_LINF, soft=True, for_training=True),
    "BoundaryAttack": Member(_L2, minimal=True, at_a_time=1, defaults={"targeted": False}),
    "CarliniL0Method": Member((), minimal=True, at_a_time=_SOME),
    "CarliniL2Method": Member(_L2, minimal=True, at_a_time=_SOME),
    "CarliniLInfMethod": Member(_LINF, minimal=True, at_a_time=1),
    "CompositeAdversarialAttackPyTorch": Member((), minimal=True, soft=True),
    "DeepFool": Member(_L2, minimal=True),
    "ElasticNet": Member(("L1",), minimal=True, at_a_time=_SOME),
    "FastGradientMethod": _PGD,
    "GeoDA": Member(minimal=True, at_a_time=1),
    "HopSkipJump": Member(("Linf", "L2"), minimal=True, at_a_time=1),
    "MomentumIterativeMethod": _PGD,
    "NewtonFool": Member(_L2, minimal=True, probabilities=True),
    "PixelAttack": Member((), minimal=True, at_a_time=1),
    "ProjectedGradientDescent": _PGD,
    "ProjectedGradientDescentNumpy": _PGD,
    "ProjectedGradientDescentPyTorch": _PGD,
    "RescalingAutoConjugateGradient": Member(_NOT_LINF, soft=True),
    "SaliencyMapMethod": Member((), minimal=True, labels=False, at_a_time=_SOME),
    "ShadowAttack": Member((), minimal=True, labels=False, at_a_time=1, alone=True),
    "SignOPTAttack": Member(_L2, minimal=True, at_a_time=1, defaults={"targeted": False}),
    "SimBA": Member(_L2, minimal=True, probabilities=True, at_a_time=1),
    "SpatialTransformation": Member((), minimal=True, at_a_time=1, alone=True, defaults=_GRID),
    "SquareAttack": Member(("Linf", "L2")),
    "ThresholdAttack": Member(_LINF, at_a_time=1, defaults={"es": 1}),
    "UniversalPerturbation": Member(("Linf", "L2")),
    "VirtualAdversarialMethod": Member(_L2, probabilities=True, at_a_time=_SOME, defaults=_COARSE),
    "ZooAttack": Member(_L2, minimal=True, at_a_time=_SOME),
}

_PATCH = "makes a patch, not inputs"
_DETECTOR = "for object detectors or trackers"
_SPEECH = "for speech recognition"
_TENSORFLOW = "for TensorFlow"
_VIDEO = "for video"
_STICKER = "physical: needs a description of the object and its transformations"

LEFT_OUT: dict[str, str] = {
    "AdversarialPatch": _PATCH,
    "AdversarialPatchNumpy": _PATCH,
    "AdversarialPatchPyTorch": _PATCH,
    "AdversarialPatchTensorFlowV2": _TENSORFLOW,
    "AdversarialTexturePyTorch": _DETECTOR,
    "BrendelBethgeAttack": "fails with numpy 2; needs numba",
    "CarliniWagnerASR": _SPEECH,
    "DPatch": _DETECTOR,
    "DecisionTreeAttack": "for decision trees",
    "FeatureAdversariesNumpy": "needs guide images instead of labels",
    "FeatureAdversariesPyTorch": "needs guide images instead of labels",
    "FeatureAdversariesTensorFlowV2": _TENSORFLOW,
    "FrameSaliencyAttack": _VIDEO,
    "GRAPHITEBlackbox": _STICKER,
    "GRAPHITEWhiteboxPyTorch": _STICKER,
    "HighConfidenceLowUncertainty": "for Gaussian processes",
    "ImperceptibleASR": _SPEECH,
    "ImperceptibleASRPyTorch": _SPEECH,
    "LaserAttack": "physical: needs a description of the laser",
    "LowProFool": "for tables: features (N, D) and their importance",
    "MalwareGDTensorFlow": "for malware, with TensorFlow",
    "OverTheAirFlickeringPyTorch": _VIDEO,
    "OverloadPyTorch": _DETECTOR,
    "ProjectedGradientDescentTensorFlowV2": _TENSORFLOW,
    "RobustDPatch": _DETECTOR,
    "SNAL": _DETECTOR,
    "TargetedUniversalPerturbation": "needs target classes",
}
"""Attacks that can't take images and their classes, and why."""

READY_ONLY: dict[str, str] = {
    "Wasserstein": "its eps is of a ball of its own; make it yourself, for ReadyArtAttack",
}
"""Attacks that only their user can set up, and why."""
