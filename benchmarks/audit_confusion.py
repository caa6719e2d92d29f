"""What the audit says of models that mask, and of honest ones: the confusion table.

    python benchmarks/audit_confusion.py --folder /tmp/zoo \
        [--out benchmarks/results/audit_confusion.json]

Trains what is missing in the folder (about 20 minutes on one core), audits each member of
benchmarks/audit_zoo.py on 200 test images of MNIST at eps .2, and prints the table of
docs/audit.md.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch
from audit_zoo import EPS, IMAGES, MEMBERS, K, Member, data

from robustlabels import runs
from robustlabels.evaluation import audit


def row(member: Member, folder: Path, n: int, seed: int) -> dict[str, Any]:
    x, y = data(n)[1]
    model = member.build(folder)
    before = time.process_time()
    report = audit(model, x, y, eps=EPS, num_classes=K, seed=seed)
    return {
        "model": member.what,
        "masks": member.masks,
        "consistent": report.consistent,
        "verdict": report.verdict,
        "clean": report.clean_accuracy,
        "failed": [check.name for check in report.failed],
        "attacks": dict(report.attacks),
        "robust_accuracy": report.robust_accuracy,
        "cpu_seconds": round(time.process_time() - before, 1),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| model | masks | PGD | worst | verdict | checks that fail |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        name = min(r["attacks"], key=r["attacks"].__getitem__)
        figures = f"{r['attacks']['PGD']:.1%} | {r['attacks'][name]:.1%} ({name})"
        verdict = "consistent" if r["consistent"] else "masked"
        masks = "yes" if r["masks"] else "no"
        right = "" if r["masks"] != r["consistent"] else " **(wrong)**"
        failed = ", ".join(r["failed"]) or "-"
        lines.append(f"| {r['model']} | {masks} | {figures} | {verdict}{right} | {failed} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for member in MEMBERS:
        rows.append(row(member, given.folder, given.n, given.seed))
        print(f"{member.what}: {rows[-1]['verdict']} ({rows[-1]['cpu_seconds']} s)", flush=True)
    print(table(rows))
    if given.out is not None:
        facts = {
            "data": "mnist",
            "training_images": IMAGES,
            "eps": EPS,
            "norm": "Linf",
            "n": given.n,
            "seed": given.seed,
            "threads": 1,
            "machine": platform.machine(),
            "versions": runs.versions(),
            "rows": rows,
        }
        runs.write_json(given.out, facts)


if __name__ == "__main__":
    main()
