"""Larger radii: robust accuracy must fall with eps, and end."""

from __future__ import annotations

import itertools
import math

from robustlabels.evaluation.accuracy import share
from robustlabels.evaluation.auditing.gradients import IF_CLAIMED, claims
from robustlabels.evaluation.auditing.report import Check
from robustlabels.evaluation.auditing.statistics import Lead, lead
from robustlabels.evaluation.auditing.trial import Trial

LEFT, RISING = 0.05, 0.03
FACTORS = (0.5, 1.0, 2.0, 4.0)
AT_MOST = 100
"""So many images are attacked at the other radii."""


def sweep(trial: Trial) -> Check:
    """Plain PGD from half of eps up to a ball that holds every image."""
    part = trial.some(AT_MOST)
    pixels = trial.x[0].numel()
    largest = 1.0 if trial.norm == "Linf" else math.sqrt(pixels)
    radii = [f * trial.eps for f in FACTORS if f * trial.eps < largest] + [largest]
    left = {}
    for eps in radii:
        if eps == trial.eps:
            left[eps] = trial.found["PGD"][part]
        else:
            found, _ = trial.climb(f"eps {eps:.6g}", (5, 10, 20), eps=eps, among=part)
            left[eps] = found[20][part]
    rises = [lead(left[b], left[a]) for a, b in itertools.pairwise(radii)]
    rising = any(each.exceeds(RISING) for each in rises)
    end = share(left[largest])
    return Check(
        name="larger radii",
        measured={
            "images": int(part.sum()),
            **{f"eps {eps:.4g}": share(each) for eps, each in left.items()},
        },
        threshold=Lead.rule("no radius must leave more than a smaller one", RISING)
        + f"; at most {LEFT:.0%} left at the largest{IF_CLAIMED}",
        passed=not (rising or end > LEFT) or not claims(trial),
        why="a larger ball holds the smaller one, and the largest holds an image of every class: "
        "an attack that leaves images there does not find what is there",
        source="Athalye et al. 2018, sec. 3.1; Carlini et al. 2019, sec. 5.4-5.5",
    )
