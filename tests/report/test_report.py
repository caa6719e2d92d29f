"""The report: valid pictures, well-formed HTML that needs no other file, and the right figures."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustlabels.report import write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}


def curve(*robust: float | None) -> list[dict[str, Any]]:
    return [{"epoch": i, "clean": 0.9, "robust": r} for i, r in enumerate(robust, start=1)]


def row(labels: str, trainer: str, clean: float, pgd: float, auto: float) -> dict[str, Any]:
    return {
        "labels": labels,
        "trainer": trainer,
        "clean_accuracy": clean,
        "robust_accuracy": {"pgd": pgd, "autoattack": auto},
        "ece": 0.0625,
        "seconds": 12.34,
        "audit": {"consistent": True, "verdict": "consistent", "failed": []},
    }


RESULTS = {
    "dataset": "digits",
    "norm": "Linf",
    "eps": 0.12,
    "n": 64,
    "seed": 7,
    "epochs": 3,
    "rows": [
        row("one-hot", "standard", 0.984375, 0.03125, 0.0),
        row("vs", "pgd-at", 0.9375, 0.71875, 0.65625),
        row("adr", "pgd-at", 1.0, 0.703125, 0.671875),
    ],
    "curves": {
        "one-hot-standard": curve(None, None, None),
        "vs-pgd-at": curve(0.1, 0.5, 0.7),
        "adr-pgd-at": curve(0.2, 0.4, None),
    },
    "notes": ["vs is an upper bound.", "a < b & c"],
    "versions": {"torch": "2.15.0+cpu", "robustlabels": "0.1.0"},
}


@pytest.fixture
def results() -> dict[str, Any]:
    """A results file's content, that a test may change."""
    return copy.deepcopy(RESULTS)


class Page(HTMLParser):
    """Checks nesting, and collects text, attributes and table cells."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.stack == [], f"never closed: {self.stack}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack and self.stack.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.texts.append((self.stack[-1] if self.stack else "", data))

    def all(self, tag: str) -> list[str]:
        return [text for inside, text in self.texts if inside == tag and text.strip()]


def page(results: dict[str, Any], folder: Path) -> tuple[Page, str]:
    write_report(results, folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    return Page(html), html


def picture(content: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    image.load()  # the whole of it, checksums included
    assert image.width > 800
    assert image.height > 300
    return np.asarray(image.convert("RGB")).astype(int)


def amount(pixels: np.ndarray, colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((abs(pixels - wanted).max(axis=2) <= 8).sum())


def test_the_files(results: dict[str, Any], tmp_path: Path) -> None:
    """What docs/cli.md promises, and nothing else: no half-written temporary files."""
    write_report(results, tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["accuracy.png", "report.html", "training.png"]


def test_the_bars_are_as_high_as_the_accuracies(results: dict[str, Any], tmp_path: Path) -> None:
    """A picture that is white, cut off or of other figures is worse than none: the area of each
    colour is that column's sum, up to the legend's swatch."""
    write_report(results, tmp_path)
    pixels = picture((tmp_path / "accuracy.png").read_bytes())
    rows = results["rows"]
    sums = {
        "#9aa5b1": sum(r["clean_accuracy"] for r in rows),
        "#3b7dd8": sum(r["robust_accuracy"]["pgd"] for r in rows),
        "#d1495b": sum(r["robust_accuracy"]["autoattack"] for r in rows),
    }
    areas = {colour: amount(pixels, colour) for colour in sums}
    for colour, total in sums.items():
        ratio = areas[colour] / areas["#9aa5b1"]
        assert ratio == pytest.approx(total / sums["#9aa5b1"], rel=0.05), colour


def test_the_curves_are_drawn(results: dict[str, Any], tmp_path: Path) -> None:
    """One line for each run that was attacked, also where its last epoch was not validated;
    natural training has none."""
    write_report(results, tmp_path)
    pixels = picture((tmp_path / "training.png").read_bytes())
    assert amount(pixels, "#3b7dd8") > 600
    assert amount(pixels, "#d1495b") > 600
    assert amount(pixels, "#2a9d8f") == 0


def test_no_curve_is_dropped(results: dict[str, Any], tmp_path: Path) -> None:
    """There are six colours; the seventh run's curve must not silently be missing."""
    results["curves"] = {f"run{i}": curve(0.1 * i, 0.1 * i) for i in range(1, 7)}
    write_report(results, tmp_path)
    six = picture((tmp_path / "training.png").read_bytes())
    results["curves"]["run7"] = curve(0.9, 0.9)
    write_report(results, tmp_path)
    seven = picture((tmp_path / "training.png").read_bytes())
    assert amount(seven, "#3b7dd8") > 1.5 * amount(six, "#3b7dd8")


def test_every_figure_is_in_the_table(results: dict[str, Any], tmp_path: Path) -> None:
    """By hand: percentages with one decimal, in the rows' order."""
    found, _ = page(results, tmp_path)
    heads = ["labels", "trainer", "clean", "PGD-10", "AutoAttack", "ECE", "training (s)", "audit"]
    assert found.all("th") == heads
    assert found.all("td") == [
        *("one-hot", "standard", "98.4 %", "3.1 %", "0.0 %", "0.062", "12.3", "consistent"),
        *("vs", "pgd-at", "93.8 %", "71.9 %", "65.6 %", "0.062", "12.3", "consistent"),
        *("adr", "pgd-at", "100.0 %", "70.3 %", "67.2 %", "0.062", "12.3", "consistent"),
    ]


def test_the_conditions_are_on_the_page(results: dict[str, Any], tmp_path: Path) -> None:
    """An accuracy without eps, norm, n, seed, versions and caveats can't be judged."""
    found, _ = page(results, tmp_path)
    text = " ".join(t for _, t in found.texts)
    for words in ("digits", "Linf eps 0.12", "64 test images", "seed 7", "torch 2.15.0+cpu"):
        assert words in text
    assert found.all("li") == ["vs is an upper bound.", "a < b & c"]


def test_it_needs_no_other_file(results: dict[str, Any], tmp_path: Path) -> None:
    """Sent by mail, or opened without a network, it must look the same: no link leads outside."""
    found, html = page(results, tmp_path)
    for tag, attrs in found.tags:
        assert tag not in ("link", "script", "iframe"), tag
        for name in ("src", "href", "srcset"):
            assert (attrs.get(name) or "data:").startswith("data:")
    assert not re.search(r"https?://|@import|url\(", html)
    images = [attrs for tag, attrs in found.tags if tag == "img"]
    names = ("accuracy.png", "training.png")
    for attrs, name in zip(images, names, strict=True):
        head, _, content = str(attrs["src"]).partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(content, validate=True) == (tmp_path / name).read_bytes()
        assert attrs["alt"]


EVIL = '<script>alert("1")</script>&amp;\''


@pytest.mark.parametrize("where", ["labels", "trainer", "dataset", "note", "version", "attack"])
def test_names_are_escaped(results: dict[str, Any], tmp_path: Path, where: str) -> None:
    """A plugin's or a folder's name must not become markup, or run as a script."""
    if where in ("labels", "trainer"):
        results["rows"][1][where] = EVIL
    elif where == "dataset":
        results["dataset"] = EVIL
    elif where == "note":
        results["notes"] = [EVIL]
    elif where == "version":
        results["versions"] = {EVIL: EVIL}
    else:
        for each in results["rows"]:
            each["robust_accuracy"] = {EVIL: 0.5}
    found, html = page(results, tmp_path)
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in found.tags}
    assert any(EVIL in text for _, text in found.texts)


@pytest.mark.parametrize("name", ["$x$", "$", "a_b^c", "$\\frac{$", "Ümläut/ß", "", "$$"])
def test_names_that_matplotlib_would_read(
    results: dict[str, Any], tmp_path: Path, name: str
) -> None:
    """Dollars start a formula in matplotlib: a folder's name must not break the report."""
    results["dataset"] = f"npz:/tmp/{name}.npz"
    results["rows"][0]["labels"] = name
    results["curves"] = {name or "nameless": curve(0.1, 0.2)}
    page(results, tmp_path)
    picture((tmp_path / "accuracy.png").read_bytes())


def test_a_single_row_and_no_curve(results: dict[str, Any], tmp_path: Path) -> None:
    """The least that a report may hold."""
    results["rows"] = results["rows"][:1]
    results["curves"] = {"one-hot-standard": []}
    results["notes"] = []
    found, _ = page(results, tmp_path)
    assert len(found.all("td")) == 8


def test_it_reads_what_json_gives_back(results: dict[str, Any], tmp_path: Path) -> None:
    """A report made again from results.json is the same."""
    page(results, tmp_path)
    first = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    write_report(json.loads(json.dumps(results)), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == first
