"""Plots, as PNG bytes. One colour means one thing in all of them."""

from __future__ import annotations

import io
import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"clean": "#9aa5b1", "pgd": "#3b7dd8", "autoattack": "#d1495b"}
NAMES = {"clean": "clean", "pgd": "PGD-10", "autoattack": "AutoAttack"}
LINES = ("#3b7dd8", "#d1495b", "#2a9d8f", "#e9a03b", "#7a5195", "#4d4d4d")


def accuracy_bars(results: dict[str, Any]) -> bytes:
    """Clean and robust accuracy of each row, side by side."""
    rows = results["rows"]
    figure = _figure(9.0, 4.2)
    axes = figure.add_subplot()
    series = ["clean", *rows[0]["robust_accuracy"]]
    width = 0.8 / len(series)
    for i, name in enumerate(series):
        heights = [
            100 * (r["clean_accuracy"] if name == "clean" else r["robust_accuracy"][name])
            for r in rows
        ]
        places = [j + (i - (len(series) - 1) / 2) * width for j in range(len(rows))]
        bars = axes.bar(
            places,
            heights,
            width * 0.92,
            color=COLOURS.get(name),
            label=_plain(NAMES.get(name, name)),
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.set_xticks(range(len(rows)), [_plain(f"{r['labels']}\n{r['trainer']}") for r in rows])
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 108)
    title = f"{results['dataset']}, {results['norm']} eps {results['eps']}, n = {results['n']}"
    axes.set_title(_plain(title), loc="left", fontsize=11)
    figure.legend(loc="outside upper right", ncols=len(series), frameon=False)
    return _png(figure)


def robustness_curves(results: dict[str, Any]) -> bytes:
    """Robust accuracy on the validation split, epoch by epoch."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(9.0, 3.6)
    axes = figure.add_subplot()
    drawn = {n: c for n, c in results["curves"].items() if any(p["robust"] is not None for p in c)}
    for (name, curve), colour in zip(drawn.items(), itertools.cycle(LINES), strict=False):
        points = [(p["epoch"], 100 * p["robust"]) for p in curve if p["robust"] is not None]
        axes.plot(
            *zip(*points, strict=True), marker="o", markersize=3, color=colour, label=_plain(name)
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("PGD-10 accuracy,\nvalidation (%)")
    axes.set_ylim(0, 100)
    if drawn:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return _png(figure)


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula; a path may hold dollars."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    # Figure without pyplot: no global state, no window system.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
