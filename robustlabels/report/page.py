"""The HTML report: one file that needs no other."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from robustlabels import runs
from robustlabels.report import plots

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.sub { color: #5b6673; margin-top: .2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid #dde3e9; text-align: left; }
td.num, th.num { text-align: right; font-variant-numeric: tabular-nums; }
img { max-width: 100%; } li { margin: .3rem 0; } code { background: #f2f4f7; padding: 0 .25em; }
"""


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write accuracy.png, training.png and report.html.

    Args:
        results: what results.json holds.
        out: an existing folder.
    """
    images = {
        "accuracy.png": plots.accuracy_bars(results),
        "training.png": plots.robustness_curves(results),
    }
    for name, png in images.items():
        with runs.atomic_file(out / name) as file:
            file.write(png)
    runs.write_text(out / "report.html", _page(results, images))


def _page(results: dict[str, Any], images: dict[str, bytes]) -> str:
    title = f"Label schemes on {results['dataset']}"
    subtitle = (
        f"{results['norm']} eps {results['eps']}, {results['n']} test images, the same in every "
        f"column; seed {results['seed']}"
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in results["notes"])
    versions = ", ".join(f"{escape(k)} {escape(v)}" for k, v in results["versions"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1><p class="sub">{escape(subtitle)}</p>
{_table(results["rows"])}
<h2>Accuracy</h2>{_image(images["accuracy.png"], "Bars of clean and robust accuracy")}
<h2>Robustness while training</h2>{_image(images["training.png"], "Robust accuracy by epoch")}
<h2>Read this before you quote a figure</h2><ul>{notes}</ul>
<h2>Versions</h2><p>{versions}</p>
</body></html>
"""


def _table(rows: list[dict[str, Any]]) -> str:
    attacks = list(rows[0]["robust_accuracy"])
    heads = ["clean", *(plots.NAMES.get(a, a) for a in attacks), "ECE", "training (s)"]
    lines = ["<table><thead><tr><th>labels</th><th>trainer</th>"]
    lines += [f'<th class="num">{escape(h)}</th>' for h in heads]
    lines.append("<th>audit</th></tr></thead><tbody>")
    for row in rows:
        shares = [row["clean_accuracy"], *(row["robust_accuracy"][a] for a in attacks)]
        cells = [f"{100 * s:.1f} %" for s in shares] + [
            f"{row['ece']:.3f}",
            f"{row['seconds']:.1f}",
        ]
        lines.append(f"<tr><td>{escape(row['labels'])}</td><td>{escape(row['trainer'])}</td>")
        lines += [f'<td class="num">{cell}</td>' for cell in cells]
        lines.append(f"<td>{escape(row['audit']['verdict'])}</td></tr>")
    return "".join([*lines, "</tbody></table>"])


def _image(png: bytes, alt: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'
