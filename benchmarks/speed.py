"""The table of speed targets, row by row: ratios of contenders that take turns in one run.

    python benchmarks/speed.py --out benchmarks/results/speed_cpu.json
    python benchmarks/speed.py --device cuda --out benchmarks/results/speed_gpu.json --seconds 400
    python benchmarks/speed.py --table benchmarks/results/speed_cpu.json ...

The first takes about 40 minutes on one core, the second a session with a GPU. Each row is kept in
OUT when it ends, and the same command goes on with the next; --seconds begins no row after so many.
A row that fails is told, and left out. The last prints README's table from such files. --tiny
rehearses everything in a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from _rows import CPU_ROWS, GPU_ROWS, Options, Row
from _timing import about

from robustlabels import runs


def table(paths: list[Path]) -> str:
    """README's table: every row, "not measured" where no file has it."""
    found: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {}}
    for path in paths:
        result = json.loads(path.read_text())
        for name, row in result["rows"].items():
            if not row["tiny"]:  # a rehearsal
                found[result["kind"]][name] = cell(row["figures"])
    lines = ["| what | target | CPU | target | GPU |", "|---|---|---|---|---|"]
    for name in dict.fromkeys([*CPU_ROWS, *GPU_ROWS]):
        cells = [CPU_ROWS.get(name, GPU_ROWS.get(name)).title]
        for kind, rows in (("cpu", CPU_ROWS), ("cuda", GPU_ROWS)):
            if name in rows:
                cells += [rows[name].target, found[kind].get(name, "not measured")]
            else:
                cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(figures: list[dict[str, Any]]) -> str:
    """What a row found, in one line: one figure with its quartiles, or each one's median."""
    if len(figures) == 1:
        return figure(figures[0])
    return ", ".join(
        f"{f['what']} {f['shown'] if 'shown' in f else format(f['ratio'], '.3f')}" for f in figures
    )


def figure(measured: dict[str, Any]) -> str:
    """A ratio with its quartiles, or what the row says instead."""
    if "shown" in measured:
        return str(measured["shown"])
    ratio, low, high = (measured[name] for name in ("ratio", "low", "high"))
    digits = 3 if ratio > 0.9 else 2
    return f"{ratio:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def measure(rows: dict[str, Row], options: Options, out: Path, seconds: float) -> list[str]:
    """Every row that OUT does not have yet; returns those that failed."""
    began = time.monotonic()
    result: dict[str, Any] = {"kind": "cuda" if options.compiled else "cpu", "rows": {}}
    if out.exists():
        result = json.loads(out.read_text())
    out.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    for name, row in rows.items():
        if name in result["rows"] or time.monotonic() - began > seconds:
            continue
        started = time.monotonic()
        try:
            facts = about(options.device, *row.distributions)
            figures = row.measure(options)
        except Exception:  # a lent GPU shall not stand idle for one row
            traceback.print_exc()
            failed.append(name)
            continue
        result["rows"][name] = {
            "target": row.target,
            "figures": figures,
            "took": round(time.monotonic() - started),
            "tiny": options.tiny,
            **facts,
        }
        runs.write_json(out, result)
        for found in figures:
            print(f"{row.title}, {found['what']}: {figure(found)} ({row.target})", flush=True)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rows", help="comma-separated; all by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--tiny", action="store_true", help="rehearse: tiny batches, few rounds")
    parser.add_argument("--gpu-rows", action="store_true", help="rehearse those, on a CPU")
    parser.add_argument("--table", type=Path, nargs="*", help="print the table of these files")
    options = parser.parse_args()
    if options.table is not None:
        print(table(options.table))
        return
    if options.out is None:
        parser.error("--out names the file of results")
    if options.device == "cpu":
        torch.set_num_threads(1)
    gpu = options.gpu_rows or options.device != "cpu"
    if options.gpu_rows and options.device == "cpu" and not options.tiny:
        parser.error("the GPU's rows on a CPU are a rehearsal: add --tiny")
    rows = GPU_ROWS if gpu else CPU_ROWS
    wanted = options.rows.split(",") if options.rows else list(rows)
    how = Options(options.device, gpu, options.tiny)
    failed = measure({name: rows[name] for name in wanted}, how, options.out, options.seconds)
    if options.out.exists():
        print(table([options.out]))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
