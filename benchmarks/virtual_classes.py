"""The four figures of models with virtual classes, beside the same training with one-hot labels.

    python benchmarks/virtual_classes.py --out benchmarks/results/virtual_classes.json

LeNets on MNIST from benchmarks/audit_zoo.py (trained where RUNS does not have them yet), judged on
200 test images at eps 0.2. Small nets on an easy data set: what to look at is how the four figures
of one model differ, not their height.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from audit_zoo import EPS, K, data, trained

from robustlabels import runs
from robustlabels.evaluation import autoattack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/audit_zoo"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    _, (x, y) = data()
    rows = {}
    for name in ("pgd", "vs"):
        found = autoattack(trained(name, options.runs), x, y, eps=EPS, num_classes=K)
        rows[name] = {"clean": found.clean_accuracy, **found.figures, "flags": found.flags}
        print(name, rows[name], flush=True)
    result = {"eps": EPS, "images": len(y), "versions": runs.versions(), "models": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(options.out, result)


if __name__ == "__main__":
    main()
