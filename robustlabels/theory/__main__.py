"""``python -m robustlabels.theory OUT``: every figure as a PNG, their numbers as theory.json."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from robustlabels.theory import figures
from robustlabels.theory.templates import last_layers


def main(arguments: list[str] | None = None) -> None:
    """Draw everything into a folder, which is made if it is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m robustlabels.theory",
        description="Draw the papers' theory, and write its numbers.",
    )
    parser.add_argument("out", type=Path, help="folder for the PNGs and theory.json")
    out: Path = parser.parse_args(arguments).out
    out.mkdir(parents=True, exist_ok=True)
    fading, discrepancy = figures.fading_data(), figures.discrepancy_data()
    layers = last_layers()
    drawn = {
        "fading-gaussian.png": figures.draw_fading(fading),
        "discrepancy.png": figures.draw_discrepancy(discrepancy),
        "templates.png": figures.draw_templates(layers),
    }
    for name, png in drawn.items():
        (out / name).write_bytes(png)
    numbers = {
        "fading-gaussian": fading,
        "discrepancy": discrepancy,
        "templates": [layer.figures() for layer in layers],
    }
    (out / "theory.json").write_text(json.dumps(numbers, indent=1, allow_nan=False) + "\n")
    print(*(out / name for name in (*drawn, "theory.json")), sep="\n")


if __name__ == "__main__":
    main()
