"""``robustlabels leaderboard``: tables, JSON, refusals, and a snapshot of one's own."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


def test_the_table(cli: Cli) -> None:
    """The top of CIFAR-10 as RobustBench shows it; a pipe must not fold it."""
    ran = cli("leaderboard", "--top", "3")
    assert (ran.code, ran.err) == (0, "")
    title, _, head, _, *rows = ran.out.splitlines()
    assert title == "RobustBench cifar10 Linf, eps 8/255: 3 of 99 entries, 2025-03-31"
    columns = ["rank", "model", "clean", "AutoAttack", "best", "known", "data", "architecture"]
    assert head.split() == columns  # no flags: none of these has one
    second = rows[1].split()
    assert second[:5] == ["2", "Amini2024MeanSparse_S-WRN-94-16", "93.60%", "75.28%", "73.10%"]
    assert "300M synthetic" in rows[0]


def test_filters_keep_the_ranks(cli: Cli) -> None:
    """The best WRN-34-10 is not the best of all."""
    options = ("--architecture", "wrn-34-10", "--no-extra-data", "--json")
    ran = cli("leaderboard", "--dataset", "cifar10", "--threat", "Linf", *options)
    found = json.loads(ran.out)
    first = found["entries"][0]
    assert (first["id"], first["rank"], first["robust"]) == (
        "Addepalli2021Towards_WRN34",
        39,
        0.5804,
    )
    assert {e["architecture"] for e in found["entries"]} == {"WideResNet-34-10"}
    assert (found["date"], found["eps"], found["dataset"]) == ("2025-03-31", "8/255", "cifar10")
    assert first["authors"].startswith("Sravanti Addepalli, ")


def test_nothing_left(cli: Cli) -> None:
    """Every XCiT was trained on other data too: that is an answer, not a mistake."""
    ran = cli("leaderboard", "--architecture", "xcit-l12", "--no-extra-data")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[0].endswith("eps 8/255: 0 of 99 entries, 2025-03-31")


def test_corruptions(cli: Cli) -> None:
    """mCE exists on ImageNet only."""
    ran = cli("leaderboard", "--dataset", "imagenet", "--threat", "corruptions")
    row = next(line for line in ran.out.splitlines() if "Tian2022Deeper_DeiT-S" in line)
    assert row.split()[:7] == [
        "2",
        "Tian2022Deeper_DeiT-S",
        "79.76%",
        "62.91%",
        "47.61%",
        "62.64%",
        "52.50%",
    ]
    ran = cli("leaderboard", "--dataset", "cifar100", "--threat", "corruptions")
    assert "13 of 13" in ran.out
    assert "mCE" not in ran.out


def test_an_evaluation(cli: Cli, run: Path) -> None:
    """A real run and its real evaluation: the digits' figures, and why they prove nothing."""
    assert cli("evaluate", "run", "--n", "20", "--attacks", "fgsm").code == 0
    path = "run/evaluation.json"
    ran = cli("leaderboard", "--compare", path)
    assert (ran.code, ran.out) == (2, "")
    assert "'digits', which has no leaderboard; to compare all the same name one" in ran.err
    ran = cli("leaderboard", "--compare", path, "--dataset", "cifar10")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == f"{path} beside RobustBench cifar10 Linf, 2025-03-31"
    loud = lines.index("NOT A FAIR COMPARISON:")
    starts = [line.split(";")[0].strip() for line in lines[loud + 1 :]]
    assert starts == [
        "data: digits, not cifar10",
        "images: 20, not 10,000",
        "attack: fgsm, not the official AutoAttack (standard) at the evaluation's eps",
        "audit: not run",
    ]
    assert "note: no published entry of cifar10 Linf has its architecture, linear" in lines
    robust = json.loads(Path(path).read_text())["robust_accuracy"]
    assert f"robust accuracy: {robust:.2%}, robust_accuracy, the worst of fgsm" in lines


def test_an_evaluation_as_json(cli: Cli, run: Path) -> None:
    """Scripts read reasons by their rule."""
    assert cli("evaluate", "run", "--n", "20", "--attacks", "fgsm").code == 0
    options = ("--dataset", "cifar10", "--architecture", "RN-18", "--json")
    found = json.loads(cli("leaderboard", "--compare", "run/evaluation.json", *options).out)
    assert found["fair"] is False
    assert [set(reason) for reason in found["reasons"]] == [{"rule", "value", "remedy"}] * 4
    assert [s["among"] for s in found["standings"]][1] == "ResNet-18"
    for standing in found["standings"]:
        assert 1 <= standing["rank"] <= standing["published"] + 1
        assert all(e["robust"] > found["robust"] for e in standing["above"])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("--dataset cifar", "no leaderboard of data set 'cifar'; did you mean 'cifar10'"),
        ("--threat linf", "cifar10 for threat 'linf'; did you mean 'Linf'? (there are L2, Linf"),
        ("--dataset cifar100 --threat L2", "known: Linf, corruptions"),
        ("--architecture wrn-1-1", "has no entry of architecture 'wrn-1-1'; did you mean"),
        ("--top 0", "--top"),
        ("--compare none.json", "cannot read none.json: No such file or directory"),
        ("--compare .", "cannot read .: Is a directory"),
        ("--compare text.json", "text.json is not JSON"),
        ("--compare list.json", "list.json is not an evaluation of robustlabels"),
        ("--compare list.json --top 3", "--top and --no-extra-data don't go with --compare"),
        ("--snapshot list.json", "list.json is not a snapshot of leaderboards"),
        ("refresh none --date 2025-03-31", "none is not a RobustBench checkout"),
        ("refresh . --date 2025-03-31", "is not a RobustBench checkout: it has no model_info/"),
        ("refresh checkout", "git knows no date of checkout: say what day"),
        ("refresh checkout --date today", "date must be like 2025-03-31, not 'today'"),
        ("refresh checkout --date 2025-03-31 --out list.json", "list.json is there already"),
        ("refresh checkout --date 2025-03-31 --out no/x.json", "cannot write no/x.json"),
        ("--json refresh checkout --date 2025-03-31", "leaderboard refresh --help"),
        ("cifar10", "No such command 'cifar10'"),
    ],
)
def test_bad_input(
    cli: Cli, disk: Callable[[], dict[str, str]], tmp_path: Path, command: str, says: str
) -> None:
    """Exit code 2, one line, nothing printed as if it were an answer, nothing written."""
    (tmp_path / "text.json").write_text("clean 85 %")
    (tmp_path / "list.json").write_text("[1, 2]")
    write_checkout(tmp_path)
    before = disk()
    ran = cli("leaderboard", *command.split())
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert len(ran.err.splitlines()) == 1
    assert disk() == before


def write_checkout(folder: Path) -> None:
    files = folder / "checkout" / "model_info" / "cifar10" / "L2"
    files.mkdir(parents=True)
    facts = {
        "name": "A title",
        "authors": "A. Author",
        "venue": "ICML 2024",
        "link": "https://example.org",
        "additional_data": False,
        "number_forward_passes": 1,
        "dataset": "cifar10",
        "architecture": "ResNet-18",
        "eps": "0.5",
        "clean_acc": "90.1",
        "autoattack_acc": "70.25",
        "unreliable": False,
    }
    (files / "Author2024Title.json").write_text(json.dumps(facts))
    (files / "Odd.json").write_text(json.dumps({**facts, "unreliable": None}))
    (files / "Broken.json").write_text("{")


def test_refresh_and_use_it(cli: Cli, tmp_path: Path) -> None:
    """A newer checkout must reach the table without a new release of ours."""
    write_checkout(tmp_path)
    ran = cli("leaderboard", "refresh", "checkout", "--date", "2026-01-02", "--out", "new.json")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert any("cifar10/L2/Broken.json" in line and "LEFT OUT: not JSON" in line for line in lines)
    assert any("cifar10/L2/Odd.json" in line and "no 'unreliable'" in line for line in lines)
    assert lines[-1] == (
        "written: new.json, 2 entries of 1 leaderboards, 1 left out, of 2026-01-02"
    )
    shown = cli("leaderboard", "--snapshot", "new.json", "--threat", "L2")
    assert "RobustBench cifar10 L2, eps 0.5: 2 of 2 entries, 2026-01-02" in shown.out
    assert "70.25%" in shown.out
    ran = cli("leaderboard", "--snapshot", "new.json")
    assert "no leaderboard of cifar10 for threat 'Linf'" in ran.err


def test_refresh_overwrites_when_told(cli: Cli, tmp_path: Path) -> None:
    """--overwrite, and only that, replaces a file."""
    write_checkout(tmp_path)
    (tmp_path / "robustbench.json").write_text("mine")
    command = ("leaderboard", "refresh", "checkout", "--date", "2026-01-02")
    assert cli(*command).code == 2
    assert (tmp_path / "robustbench.json").read_text() == "mine"
    ran = cli(*command, "--overwrite", "--json")
    found = json.loads(ran.out)
    assert (found["entries"], found["date"]) == (2, "2026-01-02")
    assert [f["file"] for f in found["findings"] if f["left_out"]] == ["cifar10/L2/Broken.json"]
    assert len(json.loads((tmp_path / "robustbench.json").read_text())["entries"]) == 2


def test_the_page(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    """What docs/leaderboard.md shows is what there is."""
    text = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```console\n\$ robustlabels (.*?)\n(.*?)```", text, re.DOTALL)
    ran = cli(*shlex.split(shown[0]))
    assert [line.rstrip() for line in ran.out.strip().splitlines()] == shown[1].splitlines()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert capsys.readouterr().out.startswith("Addepalli2021Towards_WRN34 0.5804 https://arxiv.")
    params = {"eps": 8 / 255, "norm": "Linf", "version": "standard"}
    stages = dict.fromkeys(("apgd-ce", "apgd-t", "fab-t", "square"), 0.57)
    attack = {"robust_accuracy": 0.57, "params": params, "per_attack": stages}
    names["report"](
        {
            "dataset": "cifar10",
            "norm": "Linf",
            "eps": 8 / 255,
            "n": 10_000,
            "indices": list(range(10_000)),
            "num_classes": 10,
            "clean": {"top1": 0.85},
            "attacks": {"autoattack": attack},
            "robust_accuracy": 0.57,
        }
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["all 51 of 100", "WideResNet-34-10 7 of 23"]
    assert [line.split()[0] for line in lines[3:]] == ["checkpoint", "audit"]
    boards = re.findall(r"^\| `(\w+)` `(\w+)` \| (\d+) \| ([\d./]*) ?\|$", text, re.MULTILINE)
    assert len(boards) == 7
    for dataset, threat, count, eps in boards:
        found = json.loads(
            cli("leaderboard", "--dataset", dataset, "--threat", threat, "--json").out
        )
        assert (len(found["entries"]), found["eps"] or "") == (int(count), eps)
