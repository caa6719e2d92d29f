"""The packed facts, and files that are none."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path

import pytest

import robustlabels
from robustlabels.errors import RunError
from robustlabels.leaderboard import Entry, Snapshot, read_snapshot, refresh


def entry(packed: Snapshot, path: str) -> Entry:
    (found,) = [e for e in packed.entries if f"{e.dataset}/{e.threat}/{e.id}" == path]
    return found


def test_facts_read_off_the_published_files(packed: Snapshot) -> None:
    """Percentages that become shares, text that becomes numbers: each kind of entry by hand."""
    ltd = entry(packed, "cifar10/Linf/Chen2021LTD_WRN34_10")
    assert ltd == Entry(
        dataset="cifar10",
        threat="Linf",
        id="Chen2021LTD_WRN34_10",
        title="LTD: Low Temperature Distillation for Robust Adversarial Training",
        authors="Erh-Chung Chen, Che-Rung Lee",
        venue="arXiv, Nov 2021",
        link="https://arxiv.org/abs/2111.02331",
        architecture="WideResNet-34-10",
        clean=0.8521,
        eps="8/255",
        autoattack=0.5694,
    )
    kang = entry(packed, "cifar10/Linf/Kang2021Stable")
    assert (kang.autoattack, kang.external, kang.robust) == (0.7128, 0.642, 0.642)
    assert (kang.data, kang.flags) == ("extra", ("unreliable",))
    xiao = entry(packed, "cifar10/Linf/Xiao2020Enhancing")
    assert (xiao.eps, xiao.radius, xiao.robust) == ("0.031", 0.031, 0.074)
    assert xiao.flags == ("unreliable", "other-eps")
    mixed = entry(packed, "cifar100/Linf/Bai2023Improving_edm")
    assert (mixed.data, mixed.flags) == ("extra + 50M synthetic", ("ensemble",))
    noisy = entry(packed, "imagenet/corruptions/Erichson2022NoisyMix_new")
    assert (noisy.corruptions, noisy.mce) == (0.5328, 0.5943)
    assert (noisy.corruptions_3d, noisy.mce_3d, noisy.robust) == (0.561, 0.6127, 0.5328)
    assert (noisy.eps, noisy.radius, noisy.autoattack) == (None, None, None)
    assert entry(packed, "cifar10/Linf/Dai2021Parameterizing").synthetic == "~6M"
    assert entry(packed, "cifar10/Linf/Standard").robust == 0.0


def test_what_the_published_files_contradict_themselves_in(packed: Snapshot) -> None:
    """The folder is right where 'dataset' is a copy's; the footnote where eps is."""
    assert entry(packed, "cifar100/Linf/Hendrycks2019Using").robust == 0.2842
    for path in ("cifar10/Linf/Zhang2020Geometry", "cifar100/Linf/Cui2020Learnable_34_20_LBGAT6"):
        found = entry(packed, path)
        assert found.eps == "8/255"
        assert "other-eps" in found.flags
    assert entry(packed, "cifar10/corruptions/Gowal2020Uncovering_70_16_L2").eps is None
    assert entry(packed, "cifar10/L2/Engstrom2019Robustness").venue == "GitHub, Sep 2019"
    # "&note" without a semicolon is an entity to an HTML parser, and part of this address.
    link = entry(packed, "cifar10/Linf/ZhangXu2020Adversarial").link
    assert link == "https://openreview.net/forum?id=Syejj0NYvr&noteId=Syejj0NYvr"


def test_how_many(packed: Snapshot) -> None:
    """A leaderboard with holes would flatter every newcomer."""
    boards: dict[tuple[str, str], int] = {}
    for e in packed.entries:
        boards[e.dataset, e.threat] = boards.get((e.dataset, e.threat), 0) + 1
    assert boards == {
        ("cifar10", "L2"): 21,
        ("cifar10", "Linf"): 99,
        ("cifar10", "corruptions"): 23,
        ("cifar100", "Linf"): 38,
        ("cifar100", "corruptions"): 13,
        ("imagenet", "Linf"): 30,
        ("imagenet", "corruptions"): 12,
    }
    assert packed.date == datetime.date(2025, 3, 31)
    assert sum(e.external is not None for e in packed.entries) == 25
    # Where they differ, RobustBench ranks by external, and we by the worst: here it's the same.
    assert all(e.external <= e.autoattack for e in packed.entries if e.external and e.autoattack)


def test_it_is_what_refresh_makes(packed: Snapshot, shared: Path) -> None:
    """A packed file that nobody can make again is no evidence."""
    made, findings = refresh(shared, "2025-03-31")
    assert made == packed
    file = Path(robustlabels.__file__).parent / "leaderboard" / "robustbench.json"
    assert made.text() == file.read_text(encoding="utf-8")
    assert not any(finding.left_out for finding in findings)


def test_every_figure_against_its_file(packed: Snapshot, shared: Path) -> None:
    """No rounding on the way from "72.08" to a share, and no field taken for another."""
    fields = {
        "clean_acc": "clean",
        "autoattack_acc": "autoattack",
        "external": "external",
        "corruptions_acc": "corruptions",
        "corruptions_mce": "mce",
        "corruptions_acc_3d": "corruptions_3d",
        "corruptions_mce_3d": "mce_3d",
    }
    for e in packed.entries:
        path = shared / "model_info" / e.dataset / e.threat / f"{e.id}.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        for theirs, ours in fields.items():
            found = getattr(e, ours)
            percent = None if found is None else Decimal(repr(found)) * 100
            assert percent == (Decimal(facts[theirs]) if theirs in facts else None), (path, theirs)
        assert e.extra_data is facts["additional_data"]
        assert bool(e.synthetic) == ("synthetic" in str(facts.get("footnote")))
        assert ("ensemble" in e.flags) == (facts["number_forward_passes"] > 1)


def test_it_holds_facts_only(packed: Snapshot) -> None:
    """Footnotes and abstracts are prose of others."""
    assert "adversarially trained model" not in packed.text()
    assert "footnote" not in packed.text()
    assert len(packed.text()) < 110_000


def test_it_reads_what_it_writes(packed: Snapshot, tmp_path: Path) -> None:
    """A field that the writer leaves out must be its default to the reader."""
    (tmp_path / "other.json").write_text(packed.text(), encoding="utf-8")
    assert read_snapshot(tmp_path / "other.json") == packed


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Invalid JSON"),
        ("[]", "must be an object"),
        ("{}", "source: Field required"),
        ('{"source": "", "date": "soon", "entries": []}', "date: must be a valid date"),
        ('{"source": "", "date": "2025-03-31", "entries": [{}]}', "entries.0.dataset: Field"),
        ({"clean": 90.1}, "entries.0.clean: must be less than or equal to 1"),
        ({"clean": None}, "entries.0.clean: must be a valid number"),
        ({"autoattack": None}, "entries.0: X has no robust accuracy for threat Linf"),
        ({"eps": None}, "entries.0: X has no eps"),
        ({"eps": "8"}, "eps must be at most 1 for Linf"),
        ({"flags": "ensemble"}, "entries.0.flags: must be a valid array"),
    ],
)
def test_files_that_are_no_snapshot(
    tmp_path: Path, text: str | dict[str, object], why: str
) -> None:
    """A foreign file must be named as such, not fail where its first odd value is used."""
    if isinstance(text, dict):
        texts = ("title", "authors", "venue", "link", "architecture")
        facts = {"dataset": "a", "threat": "Linf", "id": "X", **dict.fromkeys(texts, "")}
        facts |= {"clean": 0.9, "eps": "8/255", "autoattack": 0.5, **text}
        text = json.dumps({"source": "", "date": "2025-03-31", "entries": [facts]})
    path = tmp_path / "snapshot.json"
    path.write_text(text)
    with pytest.raises(RunError) as caught:
        read_snapshot(path)
    assert str(caught.value).startswith(f"{path} is not a snapshot of leaderboards: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, bytes: one line each."""
    with pytest.raises(RunError, match="No such file"):
        read_snapshot(tmp_path / "none.json")
    with pytest.raises(RunError, match="cannot read"):
        read_snapshot(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunError, match="it is no text"):
        read_snapshot(tmp_path / "bytes")
