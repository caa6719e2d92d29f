"""Refreshing: what is wrong in a file is told, and never guessed."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustlabels.errors import BadValueError
from robustlabels.leaderboard import Entry, refresh

DAY = "2026-01-02"


def only(checkout: Path) -> Entry:
    snapshot, findings = refresh(checkout, DAY)
    assert findings == []
    (found,) = snapshot.entries
    return found


def test_a_good_file(checkout: Callable[..., Path]) -> None:
    """Nothing may be found in a file that is as it should be."""
    found = only(checkout())
    assert (found.dataset, found.threat, found.id) == ("cifar10", "Linf", "Good")
    assert (found.clean, found.autoattack, found.external) == (0.901, 0.607, None)
    assert (found.flags, found.data) == ((), "")
    assert found.link == "https://example.org/?a=1&note=2"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"architecture": ...}, "no 'architecture'"),
        ({"architecture": "  "}, "no 'architecture'"),
        ({"clean_acc": ...}, "no 'clean_acc'"),
        ({"clean_acc": ""}, "no 'clean_acc'"),
        ({"clean_acc": "null"}, "'clean_acc' must be a percentage from 0 to 100, not 'null'"),
        ({"clean_acc": True}, "'clean_acc' must be a percentage from 0 to 100, not True"),
        ({"clean_acc": "NaN"}, "'clean_acc' must be a percentage"),
        ({"clean_acc": "100.01"}, "'clean_acc' must be a percentage"),
        ({"clean_acc": "-0.01"}, "'clean_acc' must be a percentage"),
        ({"clean_acc": [90]}, "'clean_acc' must be a percentage"),
        ({"autoattack_acc": None}, "no 'autoattack_acc'"),
        ({"external": "n/a"}, "'external' must be a percentage"),
        ({"additional_data": "false"}, "'additional_data' must be true or false, not 'false'"),
        ({"additional_data": ...}, "'additional_data' must be true or false, not None"),
        ({"eps": None}, "Bad has no eps"),
        ({"eps": "8"}, "eps must be at most 1 for Linf"),
        ({"eps": "8/0"}, "eps must be a number"),
    ],
)
def test_entries_that_cannot_be_ranked(
    checkout: Callable[..., Path], changes: dict[str, Any], what: str
) -> None:
    """A guess in their place would move every other model's rank."""
    root = checkout(changes)
    folder = root / "model_info" / "cifar10" / "Linf"
    (folder / "Good.json").rename(folder / "Bad.json")
    checkout()
    snapshot, findings = refresh(root, DAY)
    assert [e.id for e in snapshot.entries] == ["Good"]
    (found,) = [f for f in findings if f.left_out]
    assert found.file == "cifar10/Linf/Bad.json"
    assert what in found.what


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{}", "no 'architecture'"),
    ],
)
def test_files_that_are_no_entry(checkout: Callable[..., Path], text: str, what: str) -> None:
    """One broken file must not hide the others."""
    snapshot, findings = refresh(checkout(Broken=text), DAY)
    assert [e.id for e in snapshot.entries] == ["Good"]
    assert next(f.what for f in findings if f.left_out).startswith(what)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"name": ...}, "no 'name'"),
        ({"authors": ""}, "no 'authors'"),
        ({"venue": "GitHub,<br>Sep 2019"}, "'venue' holds markup or stray spaces"),
        ({"dataset": "cifar100"}, "'dataset' is 'cifar100': the folder's name counts"),
        ({"unreliable": ...}, "no 'unreliable'"),
        ({"number_forward_passes": "1"}, "'number_forward_passes' must be an integer, not '1'"),
        ({"external": "61.00"}, "'external' is above 'autoattack_acc'"),
        ({"autoattack_acc": "90.20"}, "'autoattack_acc' is above 'clean_acc'"),
        ({"footnote": "Trained on synthetic images."}, "synthetic images, but not how many"),
        ({"footnote": "Uses eps = 0.031 instead of 8/255."}, "but the footnote says 0.031"),
    ],
)
def test_what_is_odd_is_told(
    checkout: Callable[..., Path], changes: dict[str, Any], what: str
) -> None:
    """The entry stays, and the report names its file."""
    snapshot, (finding,) = refresh(checkout(changes), DAY)
    assert (finding.file, finding.left_out) == ("cifar10/Linf/Good.json", False)
    assert what in finding.what
    assert len(snapshot.entries) == 1


def test_footnotes_become_facts(checkout: Callable[..., Path]) -> None:
    """A model with a million generated images is not one without other data."""
    note = "It uses additional 1M synthetic images in training."
    assert only(checkout({"footnote": note})).synthetic == "1M"
    assert only(checkout({"footnote": note})).data == "1M synthetic"
    assert only(checkout({"footnote": "Compressed model"})).flags == ("compressed",)
    assert only(checkout({"footnote": None})).flags == ()
    assert only(checkout({"number_forward_passes": 6})).flags == ("ensemble",)
    assert only(checkout({"unreliable": True})).flags == ("unreliable",)
    untold, _ = refresh(checkout({"footnote": "Some synthetic images."}), DAY)
    assert untold.entries[0].data == "unstated synthetic"


def test_the_worst_figure_ranks(checkout: Callable[..., Path]) -> None:
    """An external figure above AutoAttack's can't be the best known robust accuracy."""
    low = only(checkout({"external": "58.6"}))
    assert (low.autoattack, low.external, low.robust) == (0.607, 0.586, 0.586)
    high, _ = refresh(checkout({"external": "61.0"}), DAY)
    assert high.entries[0].robust == 0.607
    assert only(checkout({"external": ""})).robust == 0.607


def test_another_eps_than_most(checkout: Callable[..., Path]) -> None:
    """The flag follows the leaderboard's own custom, not a number of ours."""
    root = checkout({"eps": "0.031"})
    folder = root / "model_info" / "cifar10" / "Linf"
    for name in ("One", "Two"):
        checkout()
        (folder / "Good.json").rename(folder / f"{name}.json")
    checkout({"eps": 0.031})
    snapshot, _ = refresh(root, DAY)
    assert [(e.id, e.eps, e.flags) for e in snapshot.entries] == [
        ("Good", "0.031", ("other-eps",)),
        ("One", "8/255", ()),
        ("Two", "8/255", ()),
    ]


def test_it_does_not_depend_on_the_file_system(checkout: Callable[..., Path]) -> None:
    """Two people who refresh must get one file."""
    root = checkout(B="{}")
    first = refresh(root, DAY)
    folder = root / "model_info" / "cifar10" / "Linf"
    for path in sorted(folder.iterdir(), reverse=True):
        text = path.read_text()
        path.unlink()
        path.write_text(text)
    second = refresh(root, DAY)
    assert first[0].text() == second[0].text()
    assert first[1] == second[1]


def test_folders_that_are_no_checkout(tmp_path: Path, checkout: Callable[..., Path]) -> None:
    """An empty leaderboard would put everybody first."""
    for folder in (tmp_path, tmp_path / "none", checkout() / "model_info"):
        with pytest.raises(BadValueError, match="is not a RobustBench checkout"):
            refresh(folder, DAY)
    with pytest.raises(BadValueError, match=r"no file of .* can be used; .*no 'clean_acc'"):
        refresh(checkout({"clean_acc": ...}), DAY)


def test_the_date(checkout: Callable[..., Path]) -> None:
    """A snapshot without a date ages unseen; a repository around the folder is another's."""
    root = checkout()

    def git(folder: Path, *arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True)

    commit = ("commit", "-q", "--allow-empty", "-m", "m")
    git(root.parent, "init", "-q")
    git(root.parent, *commit)
    with pytest.raises(BadValueError, match=r"git knows no date of .*--date 2025-03-31"):
        refresh(root)
    git(root, "init", "-q")
    with pytest.raises(BadValueError, match="git knows no date"):
        refresh(root)
    git(root, *commit)
    assert abs(refresh(root)[0].date - datetime.date.today()) <= datetime.timedelta(days=1)
    assert refresh(root, datetime.date(2020, 2, 3))[0].date == datetime.date(2020, 2, 3)
    for wrong in ("2025-3-31", "yesterday", "2025-02-30", ""):
        with pytest.raises(BadValueError, match="date must be like 2025-03-31"):
            refresh(root, wrong)
