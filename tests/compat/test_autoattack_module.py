"""Without these, RobustBench would call an ``autoattack`` that is not the published one, or a
resumed evaluation would report the verdicts of other attacks, other images or another model."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from robustlabels._compat.autoattack_module import AutoAttack, modules
from robustlabels._compat.autoattack_state import EvaluationState
from robustlabels.errors import BadValueError, RunError

K, EPS = 4, 0.0076


class Linear(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


@pytest.fixture
def problem() -> tuple[Linear, Tensor, Tensor]:
    """Twelve images of which some are misclassified, some break, and some hold."""
    g = torch.Generator().manual_seed(3)
    weight = torch.randn(K, 64, generator=g)
    model = Linear(weight - weight.mean(1, keepdim=True))
    x = 0.3 + 0.4 * torch.rand(12, 1, 8, 8, generator=g)
    y = model(x).argmax(1).detach()
    y[0] = (y[0] + 1) % K
    return model, x, y


def attacker(model: nn.Module, **options: Any) -> AutoAttack:
    given = {"eps": EPS, "seed": 5, "device": "cpu", "verbose": False, **options}
    return AutoAttack(model, "Linf", **given)


def test_the_signature_is_that_of_the_published_package() -> None:
    """github.com/fra31/auto-attack at a392200, which RobustBench's setup.py names: a parameter that
    is missing or elsewhere breaks its callers."""
    made = inspect.signature(AutoAttack).parameters
    assert list(made) == [
        "model", "norm", "eps", "seed", "verbose", "attacks_to_run", "version", "is_tf_model",
        "device", "log_path",
    ]  # fmt: skip
    defaults = ["Linf", 0.3, None, True, (), "standard", False, "cuda", None]
    assert [p.default for p in made.values()][1:] == defaults
    run = inspect.signature(AutoAttack.run_standard_evaluation).parameters
    assert list(run) == ["self", "x_orig", "y_orig", "bs", "return_labels", "state_path"]
    assert [p.default for p in run.values()][3:] == [250, False, None]


@pytest.mark.usefixtures("short")
def test_it_finds_what_pyautoattack_finds(problem: tuple[Linear, Tensor, Tensor]) -> None:
    """An argument that is dropped or swapped on the way would give other adversarial inputs."""
    model, x, y = problem
    theirs = pyautoattack.AutoAttack(model, eps=EPS, norm="L2", seed=5)
    x_adv, y_adv = theirs.run_standard_evaluation(x, y, batch_size=5)
    ours = AutoAttack(model, "L2", EPS, 5, False, device="cpu")
    assert torch.equal(ours.run_standard_evaluation(x, y, 5), x_adv)
    found = ours.run_standard_evaluation(x, y, bs=5, return_labels=True)
    assert torch.equal(found[0], x_adv)
    assert torch.equal(found[1], y_adv)


@pytest.mark.usefixtures("short")
def test_each_attack_alone(problem: tuple[Linear, Tensor, Tensor]) -> None:
    """Alone means on every image: an attack that sees only what the one before left looks weak."""
    model, x, y = problem
    ours = attacker(model)
    found = ours.run_standard_evaluation_individual(x, y, bs=12, return_labels=True)
    assert list(found) == ours.attacks_to_run == ["apgd-ce", "apgd-t", "square"]
    for attack, (x_adv, y_adv) in found.items():
        alone = pyautoattack.AutoAttack(model, eps=EPS, seed=5, version="custom", attacks=[attack])
        alone._set_version()
        alone.attacks_to_run = [attack]
        assert torch.equal(alone.run_standard_evaluation(x, y, batch_size=12)[0], x_adv)
        assert torch.equal(model(x_adv).argmax(1), y_adv)


class StoppedError(Exception):
    """A process that is killed."""


def stop_at(monkeypatch: pytest.MonkeyPatch, attack: str) -> None:
    def perturb(*_: Any, **__: Any) -> None:
        raise StoppedError

    parts = {"apgd-t": pyautoattack.autoattack.APGDAttack_targeted,
             "square": pyautoattack.autoattack.SquareAttack}  # fmt: skip
    monkeypatch.setattr(parts[attack], "perturb", perturb)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("attack", ["apgd-t", "square"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    problem: tuple[Linear, Tensor, Tensor],
    attack: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Upstream, a resumed run raises; one that did not would return the inputs of the attacks after
    the stop only, and so a robust accuracy that is too high."""
    model, x, y = problem
    whole = attacker(model).run_standard_evaluation(x, y, 5, True)
    state = tmp_path / "state"
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        stop_at(patch, attack)
        attacker(model).run_standard_evaluation(x, y, 5, state_path=state)
    first = EvaluationState.from_disk(state)
    assert first.done == ["apgd-ce", "apgd-t", "square"][: 1 if attack == "apgd-t" else 2]
    assert not first.robust.all()

    calls = []
    perturb = pyautoattack.autoattack.APGDAttack.perturb
    monkeypatch.setattr(
        pyautoattack.autoattack.APGDAttack,
        "perturb",
        lambda *a, **k: calls.append(1) or perturb(*a, **k),
    )
    again = attacker(model).run_standard_evaluation(x, y, 5, True, state)
    assert not calls  # what was done is not done again
    assert torch.equal(again[0], whole[0])
    assert torch.equal(again[1], whole[1])
    done = EvaluationState.from_disk(state)
    robust = whole[1] == y
    assert torch.equal(done.robust, robust)
    assert 0 < int(robust.sum()) < len(robust)
    assert done.robust_flags.mean().item() == pytest.approx(int(robust.sum()) / 12)  # RobustBench
    assert done.accuracies["clean"] == 11 / 12
    assert torch.equal(attacker(model).run_standard_evaluation(x, y, 5, False, state), whole[0])


@pytest.mark.usefixtures("short")
def test_the_state_of_something_else_is_refused(
    problem: tuple[Linear, Tensor, Tensor], tmp_path: Path
) -> None:
    """Verdicts of another model or radius would be reported as this one's."""
    model, x, y = problem
    state = tmp_path / "state"
    attacker(model).run_standard_evaluation(x, y, 5, state_path=state)
    before = state.read_bytes()
    other = Linear(model.weight.detach() * 1.001)
    runs = {
        "model": lambda: attacker(other).run_standard_evaluation(x, y, 5, False, state),
        "images": lambda: attacker(model).run_standard_evaluation(x * 0.999, y, 5, False, state),
        "labels": lambda: attacker(model).run_standard_evaluation(x, y.flip(0), 5, False, state),
        "batch": lambda: attacker(model).run_standard_evaluation(x, y, 6, False, state),
        "seed": lambda: attacker(model, seed=6).run_standard_evaluation(x, y, 5, False, state),
        "eps": lambda: attacker(model, eps=0.0077).run_standard_evaluation(x, y, 5, False, state),
        "version": lambda: attacker(model, version="plus").run_standard_evaluation(
            x, y, 5, False, state
        ),
    }
    for what, run in runs.items():
        with pytest.raises(RunError, match="state of another run"):
            run()
            raise AssertionError(f"another {what} was taken")
    assert state.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04", b'{"_attacks_to_run": "{}"}'])
def test_a_broken_state_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Upstream's own state file is JSON: it can't be gone on with, and must not be overwritten."""
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(RunError, match="is not an AutoAttack state of robustlabels") as caught:
        EvaluationState.from_disk(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.usefixtures("short")
def test_what_is_told(
    problem: tuple[Linear, Tensor, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A submission to the leaderboard holds this log; a log file that stays empty is found late."""
    model, x, y = problem
    log = tmp_path / "log.txt"
    logger = logging.getLogger("auto-attack")
    before = logger.level, logger.propagate, list(logger.handlers), list(logger.filters)
    ours = attacker(model, verbose=True, log_path=log)
    ours.run_standard_evaluation(x, y, bs=12)
    out = capsys.readouterr().out
    assert "initial accuracy: 91.67%" in out
    assert "robust accuracy after SQUARE" in out
    assert log.read_text() == out
    ours.run_standard_evaluation(x, y, bs=12, state_path=tmp_path / "state")
    resumable = capsys.readouterr().out
    assert resumable.count("accuracy: ") == 1  # of all images, and not of what is left
    assert "apgd-ce - 1/1 - " in resumable
    assert log.read_text() == out + resumable
    attacker(model).run_standard_evaluation(x, y, bs=12)
    assert capsys.readouterr().out == ""
    assert before == (logger.level, logger.propagate, logger.handlers, logger.filters)


@pytest.mark.usefixtures("short")
def test_a_dynamic_defence_does_not_taint_the_next_model(
    problem: tuple[Linear, Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """pyautoattack's count is global, and it switches a debugger's tracing off."""
    model, x, y = problem

    class Dynamic(Linear):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                probe = x.detach().requires_grad_()
                torch.autograd.grad(super().forward(probe).sum(), probe)
            return super().forward(x)

    def trace(*_: Any) -> None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        attacker(Dynamic(model.weight.detach())).run_standard_evaluation(x, y)
        assert "dynamic defense" in capsys.readouterr().out  # a warning, so told all the same
        attacker(model).run_standard_evaluation(x, y)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert "dynamic defense" not in capsys.readouterr().out


def test_what_it_cannot_do_is_refused(
    problem: tuple[Linear, Tensor, Tensor], tmp_path: Path
) -> None:
    """TensorFlow models would be called as if they were PyTorch's; a custom version's parameters
    are in no fingerprint."""
    model, x, y = problem
    with pytest.raises(BadValueError, match="is_tf_model must be False"):
        AutoAttack(model, is_tf_model=True)
    custom = attacker(model, version="custom", attacks_to_run=["square"])
    assert custom.attacks_to_run == ["square"]
    with pytest.raises(BadValueError, match="state_path needs version"):
        custom.run_standard_evaluation(x, y, state_path=tmp_path / "state")
    assert not any(tmp_path.iterdir())


def test_the_modules_are_those_that_robustbench_imports() -> None:
    """``from autoattack.state import EvaluationState`` needs both in sys.modules."""
    made = modules()
    assert list(made) == ["autoattack", "autoattack.state"]
    assert made["autoattack"].AutoAttack is AutoAttack
    assert made["autoattack.state"].EvaluationState is EvaluationState
    assert made["autoattack"].state is made["autoattack.state"]


def test_setting_a_version(problem: tuple[Linear, Tensor, Tensor]) -> None:
    """Callers switch to "rand" on a made object; the name that is told must follow."""
    ours = attacker(problem[0])
    assert ours.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
    ours.set_version("rand")
    assert (ours.version, ours.attacks_to_run) == ("rand", ["apgd-ce", "apgd-dlr"])
    assert json.dumps(ours.apgd.eot_iter) == "20"
