"""The papers' small models, runnable: why the labels work, and where the papers' texts err.

``python -m robustlabels.theory OUT`` draws every figure and writes its numbers; docs/theory.md
reads them.
"""

from robustlabels.theory.distances import (
    distance_loss,
    distance_softmax,
    optimal_gaps,
    squared_distances,
)
from robustlabels.theory.fading import FadingGaussian, descend
from robustlabels.theory.oracle import (
    best_temperature,
    binary_discrepancies,
    discrepancy,
    expected_discrepancy,
    least_ambiguity,
    odds_bound,
    simulated_binary,
    simulated_classes,
    softened,
)
from robustlabels.theory.templates import LastLayer, last_layers

__all__ = [
    "FadingGaussian",
    "LastLayer",
    "best_temperature",
    "binary_discrepancies",
    "descend",
    "discrepancy",
    "distance_loss",
    "distance_softmax",
    "expected_discrepancy",
    "last_layers",
    "least_ambiguity",
    "odds_bound",
    "optimal_gaps",
    "simulated_binary",
    "simulated_classes",
    "softened",
    "squared_distances",
]
