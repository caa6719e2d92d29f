"""The figures: functions that give their data, and functions that draw them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from robustlabels.theory.fading import FadingGaussian, descend
from robustlabels.theory.oracle import (
    best_temperature,
    binary_discrepancies,
    expected_discrepancy,
    least_ambiguity,
    oracle_concentration,
    simulated_binary,
    simulated_classes,
    softened,
)
from robustlabels.theory.templates import SHOWN, LastLayer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (0.0, 0.01, 0.1, 0.4)
STEPS = 300
TRAINING, SAMPLES = 4_000, 20_000
GAP = 6.9
"""A teacher's gap in logits that makes it 99.9 % sure: both of LTD's examples have about this."""
COLOURS = ("#3b7dd8", "#d1495b", "#2a9d8f", "#e9a03b", "#7a5195", "#4d4d4d")


def fading_data(seed: int = 0) -> dict[str, Any]:
    """Goibert's figures 1 and 2: weights, and accuracies over epsilon, by formula and simulated.

    Returns:
        "eps"; and for "best", "bayes", "als" (exact, alpha .1) and each alpha's "descent", the
        "weights" (over their greatest; of "best" at eps .2), the "accuracy" by eq. 8 and 9, and
        "simulated".
    """
    problem = FadingGaussian.of_the_paper()
    eps = [i / 20 for i in range(13)]
    draw = torch.Generator().manual_seed(seed)
    x, y = problem.sample(TRAINING, draw)
    weights = {"bayes": problem.bayes_weights(), "als": problem.als_weights(0.1)}
    weights |= {f"descent {a:g}": descend(x, y, a, STEPS) for a in ALPHAS}
    curves: dict[str, Any] = {
        name: {
            "weights": (w / w.max()).tolist(),
            "accuracy": [problem.accuracy(w, e) for e in eps],
            "simulated": [problem.simulated_accuracy(w, e, SAMPLES, draw) for e in eps],
        }
        for name, w in weights.items()
    }
    best = [problem.robust_weights(e) for e in eps]
    curves["best"] = {
        "weights": (best[4] / best[4].max()).tolist(),
        "accuracy": [problem.best_accuracy(e) for e in eps],
        "simulated": [
            problem.simulated_accuracy(w, e, SAMPLES, draw) for w, e in zip(best, eps, strict=True)
        ],
    }
    return {"eps": eps, "steps": STEPS, "training": TRAINING, "samples": SAMPLES, "curves": curves}


def draw_fading(data: dict[str, Any]) -> bytes:
    """Figures 1 and 2 side by side, as a PNG."""
    figure = _figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    shown = {
        "best": ("best of all (eq. 10, 11)", COLOURS[5], "-"),
        "bayes": ("Bayes, and exact ALS", COLOURS[1], "-"),
        "descent 0": ("descent, one-hot", COLOURS[0], "--"),
        "descent 0.01": ("descent, ALS .01", COLOURS[2], "-"),
        "descent 0.1": ("descent, ALS .1", COLOURS[3], "-"),
        "descent 0.4": ("descent, ALS .4", COLOURS[4], "-"),
    }
    for name, (label, colour, line) in shown.items():
        curve = data["curves"][name]
        right.plot(data["eps"], curve["accuracy"], line, color=colour, label=label)
        right.plot(data["eps"], curve["simulated"], ".", color=colour)
        features = range(1, len(curve["weights"]) + 1)
        left.plot(features, curve["weights"], line, marker=".", color=colour)
    left.set_xlabel("feature j")
    left.set_ylabel("weight over the greatest")
    left.set_title("Figure 1: weights (best: at epsilon .2)", loc="left", fontsize=10)
    right.set_xlabel("epsilon")
    right.set_ylabel("accuracy under attack")
    right.set_title("Figure 2: lines by formula, dots simulated", loc="left", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    return _png(figure)


def discrepancy_data(seed: int = 0) -> dict[str, Any]:
    """LTD's theorem 1 over the temperature, and its two simulations."""
    draw = torch.Generator().manual_seed(seed)
    temperatures = [1 + i / 10 for i in range(1, 91)]
    cold = softened(GAP, 1.0)
    steps = [(softened(GAP, t - 0.1), softened(GAP, t)) for t in temperatures]
    ambiguity = torch.linspace(0.005, 0.5, 100, dtype=torch.float64)
    binary: dict[str, Any] = {}
    for part in (0.1, 0.3, 1.0):
        one_hot, soft = binary_discrepancies(ambiguity, part * ambiguity)
        simulated = [
            (a, *simulated_binary(a, part * a, 10 * SAMPLES, draw))
            for a in ambiguity[9::10].tolist()
        ]
        binary[f"{part:g}"] = {
            "one-hot": one_hot.tolist(),
            "soft": soft.tolist(),
            "simulated": simulated,
        }
    factors = [10 ** (i / 4) for i in range(4, 17)]
    classes = [simulated_classes(c) for c in factors]  # each on the same labels of the oracle
    concentration = oracle_concentration()
    return {
        "gap": GAP,
        "temperature": temperatures,
        "from one": [least_ambiguity(cold, softened(GAP, t)) for t in temperatures],
        "stepwise": [least_ambiguity(a, b) for a, b in steps],
        "best temperature": {str(a): best_temperature(GAP, a) for a in (0.01, 0.03, 0.1, 0.2)},
        "ambiguity": ambiguity.tolist(),
        "binary": binary,
        "factor": factors,
        "classes": {k: [found[k] for found in classes] for k in classes[0]},
        "expected": [expected_discrepancy(concentration, c) for c in factors],
    }


def draw_discrepancy(data: dict[str, Any]) -> bytes:
    """Condition (12), the two-class simulation and the ten-class one, as a PNG."""
    figure = _figure(11.0, 3.6)
    condition, binary, classes = figure.subplots(1, 3)
    condition.plot(data["temperature"], data["from one"], color=COLOURS[0], label="than T = 1")
    condition.plot(data["temperature"], data["stepwise"], color=COLOURS[1], label="than T - 0.1")
    condition.set_xlabel("temperature T of the teacher")
    condition.set_ylabel("oracle's y2 from which T is better")
    condition.set_title("Theorem 1's condition", loc="left", fontsize=10)
    condition.legend(frameon=False, fontsize=8)
    first = next(iter(data["binary"].values()))
    binary.plot(data["ambiguity"], first["one-hot"], color=COLOURS[5], label="one-hot")
    binary.plot(
        [p[0] for p in first["simulated"]],
        [p[1] for p in first["simulated"]],
        ".",
        color=COLOURS[5],
    )
    for (part, found), colour in zip(data["binary"].items(), COLOURS, strict=False):
        label = "s = gamma" if part == "1" else f"s = {part} gamma"
        binary.plot(data["ambiguity"], found["soft"], color=colour, label=label)
        points = found["simulated"]
        binary.plot([p[0] for p in points], [p[2] for p in points], ".", color=colour)
    binary.set_ylim(0, 0.36)
    binary.set_xlabel("gamma, ambiguity of 3 % of the data")
    binary.set_ylabel("discrepancy")
    binary.set_title("Two classes (dots simulated)", loc="left", fontsize=10)
    binary.legend(frameon=False, fontsize=8, loc="upper right")
    for (name, label), colour in zip(
        {
            "one-hot": "one-hot",
            "soft": "soft, .9 % errors",
            "ranked": "soft, classes by rank",
        }.items(),
        (COLOURS[5], *COLOURS),
        strict=False,
    ):
        classes.plot(data["factor"], data["classes"][name], ".-", color=colour, label=label)
    classes.plot(data["factor"], data["expected"], ":", color=COLOURS[0], label="soft, closed form")
    classes.set_xscale("log")
    classes.set_ylim(0, 0.2)
    classes.set_xlabel("c, concentration of the soft labels")
    classes.set_title("Ten classes", loc="left", fontsize=10)
    classes.legend(frameon=False, fontsize=8)
    return _png(figure)


def draw_templates(layers: list[LastLayer]) -> bytes:
    """VS's figure 2: three classes' test activations on the plane of their templates, as a PNG."""
    figure = _figure(9.0, 3.4)
    for axes, layer in zip(figure.subplots(1, len(layers)), layers, strict=True):
        for i, digit in enumerate(SHOWN):
            rows = layer.classes == i
            axes.scatter(*layer.points[rows].T.tolist(), s=8, color=COLOURS[i], label=str(digit))
        corners = torch.cat([layer.corners, layer.corners[:1]])
        axes.plot(*corners.T.tolist(), color="#9aa5b1", marker="x", linewidth=1)
        axes.set_title(f"{layer.labels}: spread {layer.spread:.2f}", loc="left", fontsize=10)
        axes.set_aspect("equal", adjustable="datalim")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=100, pil_kwargs={"optimize": True})
    return out.getvalue()
