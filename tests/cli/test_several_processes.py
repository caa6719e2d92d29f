"""Commands that torchrun's processes do not share: the first one does the work."""

from __future__ import annotations

from typing import Any

import pytest

from robustlabels import processes

COMMANDS = {
    "demo": ("--out", "new"),
    "audit": ("run",),
    "compare": ("run",),
    "reproduce": (),
    "leaderboard": (),
    "submit": ("run/evaluation.json", "--out", "new"),
    "list": (),
    "plugins": (),
    "new-plugin": ("mine",),
    "doctor": (),
}


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> Any:
    """As torchrun starts the process of a rank."""

    def start(rank: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")

    return start


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_has_nothing_to_do(
    cli: Any, run: Any, disk: Any, of_two: Any, command: str
) -> None:
    """It printed every table again, and wrote the same files at the same time."""
    of_two(1)
    before = disk()
    ran = cli(command, *COMMANDS[command])
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert disk() == before


def test_the_first_is_alone(cli: Any, of_two: Any) -> None:
    """The demo's trainings joined the second process, which had left: they waited for two days."""
    of_two(0)
    ran = cli("list", "trainers")
    assert (ran.code, ran.err) == (0, "")
    assert "pgd-at" in ran.out
    assert processes.started() == 1


def test_shared_commands_see_all(cli: Any, of_two: Any) -> None:
    """Nothing may be taken from those that join."""
    of_two(1)
    assert cli("evaluate", "nowhere").code == 2
    assert processes.started() == 2
