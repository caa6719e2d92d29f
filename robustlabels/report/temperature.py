"""The plot of a search for LTD's temperature."""

from __future__ import annotations

from typing import Any

from robustlabels.report.plots import COLOURS, _figure, _png

JUDGED = {
    "loss": ("loss of eq. 9, held out", 1),
    "robust_accuracy": ("PGD-10 accuracy, held out (%)", 100),
}
NAMES = {"loss": "the loss", "robust_accuracy": "PGD-10 accuracy"}


def temperature_figure(found: dict[str, Any]) -> bytes:
    """The substitutes' natural accuracy, the trials' loss and robust accuracy, over T.

    Args:
        found: what :func:`robustlabels.training.temperature.search_temperature` gives.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure = _figure(13.0, 3.8)
    left, middle, right = figure.subplots(1, 3)
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

    trials, best = found["trials"], found["best"]
    for axes, (name, (label, scale)) in zip((middle, right), JUDGED.items(), strict=True):
        for trial in (*trials, best):  # the best is drawn last, over its own dot
            colour = COLOURS["autoattack" if trial is best else "clean"]
            axes.scatter(trial["temperature"], scale * trial[name], color=colour)
        axes.set_ylabel(label)
    title = f"2. {len(trials)} LTD trainings: best T = {best['temperature']:.2f}"
    middle.set_title(title, loc="left", fontsize=11)
    right.set_title(f"(by {NAMES[found['objective']]})", loc="left", fontsize=11)
    for axes in (left, middle, right):
        axes.set_xscale("log")
        axes.set_xlabel("the teacher's temperature T")
        axes.xaxis.set_major_locator(FixedLocator(found["temperatures"]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{t:g}"))
        axes.tick_params(axis="x", labelsize=8)
    left.set_xlim(0.93, 1.07 * places[-1])
    for axes in (middle, right):
        axes.set_xlim(0.93, 1.07 * upper)
    return _png(figure)
