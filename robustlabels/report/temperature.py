"""The plot of a search for LTD's temperature."""

from __future__ import annotations

from typing import Any

from robustlabels.report.plots import COLOURS, _figure, _plain, _png

NAMES = {"loss": "loss of eq. 9, held out", "robust_accuracy": "PGD-10 accuracy, held out (%)"}


def temperature_figure(found: dict[str, Any]) -> bytes:
    """The substitutes' natural accuracy, and the trials' objective, over the temperature.

    Args:
        found: what :func:`robustlabels.training.temperature.search_temperature` gives.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = _figure(9.0, 3.8)
    left, right = figure.subplots(1, 2)
    substitutes, upper = found["substitutes"], found["upper"]
    places = [s["temperature"] for s in substitutes]
    left.plot(
        places,
        [100 * s["accuracy"] for s in substitutes],
        marker="o",
        color=COLOURS["pgd"],
    )
    threshold = 100 * found["accepted_above"]
    left.axhline(threshold, color=COLOURS["autoattack"], linestyle="--", linewidth=1)
    left.annotate(
        f"threshold {threshold:.1f} %",
        (1, threshold),
        xytext=(0, 4),
        textcoords="offset points",
        color=COLOURS["autoattack"],
        fontsize=9,
    )
    left.set_ylabel("natural accuracy, held out (%)")
    end = "T_max" if found["bounded"] else "none refused; the last"
    left.set_title(f"1. substitutes: {end} = {upper:g}", loc="left", fontsize=11)

    objective = found["objective"]
    scale = 100 if objective == "robust_accuracy" else 1
    trials = found["trials"]
    right.scatter(
        [t["temperature"] for t in trials],
        [scale * t[objective] for t in trials],
        color=COLOURS["clean"],
    )
    best = found["best"]
    right.scatter(
        best["temperature"], scale * best[objective], color=COLOURS["autoattack"], zorder=3
    )
    right.set_ylabel(_plain(NAMES[objective]))
    title = f"2. {len(trials)} LTD trainings: best T = {best['temperature']:.2f}"
    right.set_title(title, loc="left", fontsize=11)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("the teacher's temperature T")
        axes.xaxis.set_major_locator(FixedLocator(found["temperatures"]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
    left.set_xlim(0.93, 1.07 * places[-1])
    right.set_xlim(0.93, 1.07 * upper)
    return _png(figure)
