"""Without these, AutoAttack's figures could differ from the published tool's, count virtual or
missing classes, be exact only to a per cent, or leave a model, a logger or the random state
changed behind the user's back."""

import itertools
import logging
import random
import sys

import numpy as np
import pyautoattack
import pytest
import torch
from torch import Tensor, nn

from robustlabels.attacks.official_autoattack import AutoAttack, _Meter


class Linear(nn.Module):
    """z = W x, on images; exact margins are known."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


def problem(classes: int, n: int, side: int = 4, seed: int = 0) -> tuple[Linear, Tensor, Tensor]:
    """A linear model, and images well inside [0, 1] with the classes that it gives them."""
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, side * side, generator=g)
    model = Linear(weight - weight.mean(1, keepdim=True))  # so that brightness favours no class
    x = 0.3 + 0.4 * torch.rand(n, 1, side, side, generator=g)
    return model, x, model(x).argmax(1).detach()


def radii(model: Linear, x: Tensor, y: Tensor, dual: float) -> Tensor:
    """The exact distance of each image to the nearest other class: margin / dual norm."""
    w = model.weight.detach()
    z = model(x).detach()
    margins = z.gather(1, y[:, None]) - z
    slopes = (w[y][:, None] - w[None]).norm(p=dual, dim=2)
    ratios = margins / slopes
    ratios.scatter_(1, y[:, None], torch.inf)
    return ratios.amin(1)


HUGE = 0.9  # breaks every image in APGD-CE's hundred steps, so that tests are quick


@pytest.mark.parametrize(
    ("norm", "dual", "n", "batch", "survivors"),
    [("Linf", 1.0, 6, 4, 1), ("L2", 2.0, 3, 2, 0), ("L1", torch.inf, 2, 2, 0)],
)
def test_verdicts_and_inputs_are_pyautoattacks_own_and_the_exact_ones(
    norm, dual, n, batch, survivors
):
    model, x, y = problem(5, 300, side=5)
    near = radii(model, x, y, dual) < 0.25  # no optimum leaves [0, 1]
    x, y = x[near][:n], y[near][:n]
    exact = radii(model, x, y, dual)
    ordered = exact.sort().values
    eps = float((ordered[-1] + ordered[-2]) / 2) if survivors else float(1.1 * ordered[-1])
    found = AutoAttack(eps, norm, seed=3, batch_size=batch).run(model, x, y)

    direct = pyautoattack.AutoAttack(model, eps=eps, norm=norm, seed=3)
    direct.apgd_targeted.n_target_classes = direct.fab.n_target_classes = 4
    x_adv, y_adv = direct.run_standard_evaluation(x, y, batch_size=batch)

    assert torch.equal(found.robust, y_adv == y)
    assert torch.equal(found.x_adv, x_adv)
    assert found.robust.tolist() == (exact > eps).tolist()
    assert int(found.robust.sum()) == survivors
    # judged anew
    assert torch.equal(model(found.x_adv).argmax(1) == y, found.robust)
    assert list(found.after) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert found.after["square"] == survivors / n
    assert list(found.after.values()) == sorted(found.after.values(), reverse=True)
    assert found.clean_accuracy == 1.0
    assert not found.x_adv.requires_grad


def test_few_classes_get_fewer_targets_and_are_told_of():
    model, x, y = problem(5, 2)
    flags = AutoAttack(HUGE).run(model, x, y).flags
    assert flags == ["5 classes only: apgd-t has 4 targets, not 9, fab-t has 4 targets, not 9"]
    flags = AutoAttack(5.0, "L1").run(*problem(5, 1, side=5)).flags
    assert flags == ["5 classes only: apgd-t has 4 targets, not 5, fab-t has 4 targets, not 9"]


def test_four_classes_are_enough_and_three_are_refused_in_one_line():
    model, x, y = problem(4, 1)
    assert AutoAttack(HUGE).run(model, x, y).robust.tolist() == [False]
    model, x, y = problem(3, 1)
    with pytest.raises(ValueError, match=r"needs at least 4 classes, not 3 .* use pgd") as error:
        AutoAttack(HUGE).run(model, x, y)
    assert "\n" not in str(error.value)


def test_rand_takes_three_classes_and_no_survivor_means_no_attack():
    model, x, y = problem(3, 3)
    wrong = (y + 1) % 3
    found = AutoAttack(HUGE, version="rand").run(model, x, wrong)
    assert found.clean_accuracy == 0.0
    assert found.after == {"apgd-ce": 0.0, "apgd-dlr": 0.0}
    assert not found.robust.any()
    assert torch.equal(found.x_adv, x)


def test_no_image_at_all():
    model, x, y = problem(5, 1)
    assert AutoAttack(HUGE)(model, x[:0], y[:0]).shape == (0, 1, 4, 4)
    with pytest.raises(ValueError, match="N of at least 1"):
        AutoAttack(HUGE).run(model, x[:0], y[:0])


def test_the_protocol_gives_the_same_inputs_detached():
    model, x, y = problem(5, 2)
    x_adv = AutoAttack(HUGE)(model, x.requires_grad_(), y)
    assert torch.equal(x_adv, AutoAttack(HUGE).run(model, x, y).x_adv)
    assert not x_adv.requires_grad
    assert (model(x_adv).argmax(1) != y).all()


def test_global_random_states_are_left_alone():
    model, x, y = problem(5, 2)
    torch.manual_seed(11)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    AutoAttack(HUGE, seed=5).run(model, x, y)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


class Moody(nn.Module):
    """Batch norm (frozen), dropout, a frozen parameter; fails on demand."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.norm, self.drop, self.head = nn.BatchNorm2d(1), nn.Dropout(0.5), nn.Linear(16, 5)
        self.head.bias.requires_grad_(False)
        self.train()
        self.norm.eval()
        self.calls, self.fail_after = 0, fail_after

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise RuntimeError("out of luck")
        assert not self.drop.training
        return self.head(self.drop(self.norm(x).flatten(1)))


@pytest.mark.parametrize("fail_after", [None, 40])
def test_model_is_left_as_it_was_even_after_a_failure(fail_after):
    torch.manual_seed(0)
    model = Moody(fail_after)
    x = torch.rand(2, 1, 4, 4)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
    model.train()
    model.norm.eval()
    model.calls = 0
    state = {k: v.clone() for k, v in model.state_dict().items()}
    if fail_after is None:
        AutoAttack(HUGE).run(model, x, y)
    else:
        with pytest.raises(RuntimeError, match="out of luck"):
            AutoAttack(HUGE).run(model, x, y)
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, False]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


class Stepped(Linear):
    """Gradients masked by rounding: only Square can see where to go."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x * 5).round() / 5)


def test_square_beating_the_white_box_attacks_is_flagged_and_nothing_is_printed(capfd, caplog):
    model, x, _ = problem(5, 6)
    # channels_last, which pyautoattack alone fails on, in its check for zero gradients
    x = x.view(6, 2, 2, 4).to(memory_format=torch.channels_last)
    stepped = Stepped(model.weight.detach())
    y = stepped(x).argmax(1).detach()
    logger = logging.getLogger("auto-attack")
    before = logger.level, logger.propagate, list(logger.handlers)
    found = AutoAttack(0.12).run(stepped, x, y)
    assert found.after["square"] < found.after["fab-t"]
    assert any(f.startswith("Square Attack has decreased") for f in found.flags)
    assert any(f.startswith("apgd-t: there are") and "zero gradient" in f for f in found.flags)
    assert len(found.flags) == len(set(found.flags))
    assert not any("flags_doc" in f for f in found.flags)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


class Dynamic(Linear):
    """Takes a gradient in its own forward pass, as test-time defences do."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            torch.autograd.grad(inner.square().sum(), inner)
        return super().forward(x)


def test_a_dynamic_defence_is_flagged_and_does_not_taint_the_next_model():
    model, x, y = problem(10, 1)
    dynamic = AutoAttack(HUGE).run(Dynamic(model.weight.detach()), x, y)
    assert any("dynamic defense" in f for f in dynamic.flags)
    assert AutoAttack(HUGE).run(model, x, y).flags == []


def test_a_debuggers_or_a_coverage_runs_trace_goes_on():
    model, x, y = problem(10, 1)
    before = sys.gettrace()

    def trace(frame: object, event: str, arg: object) -> None:
        return None

    try:
        sys.settrace(trace)
        AutoAttack(HUGE).run(model, x, y)
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is trace


class Noisy(Linear):
    """Other logits each time, but the same class."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.01 * torch.randn(len(x), len(self.weight))


def test_a_randomised_defence_is_flagged():
    model, x, y = problem(10, 1)
    found = AutoAttack(HUGE).run(Noisy(model.weight.detach()), x, y)
    assert any("randomized defense" in f for f in found.flags)


def test_progress_never_falls_and_ends_at_one():
    model, x, y = problem(5, 3)
    exact = radii(model, x, y, 1.0).sort().values
    seen: list[tuple[float, str]] = []
    AutoAttack(float((exact[1] + exact[2]) / 2), batch_size=2).run(
        model, x, y, lambda done, text: seen.append((done, text))
    )
    shares = [s for s, _ in seen]
    assert shares == sorted(shares)
    assert shares[0] < 0.01
    assert seen[-1] == (1.0, "done")
    assert len(seen) > 100
    jumps = [b - a for a, b in itertools.pairwise(shares)]
    assert max(jumps) < 0.5  # images that fall early, not an attack that is told of at its end
    texts = {text.split(":")[0] for _, text in seen}
    assert texts == {"apgd-ce", "apgd-t", "fab-t", "square", "done"}


def test_progress_stands_still_where_more_images_are_judged_than_were_thought_left():
    seen: list[float] = []
    meter = _Meter(nn.Flatten(), torch.device("cpu"), lambda done, text: seen.append(done))
    meter.costs = {"square": 100.0}
    meter.begin("square", batch=50, waiting=0, later=[], left=50)
    with torch.no_grad():
        for images in (50, 1, 1, 50, 50, 1):  # few survive, then all are judged
            meter(torch.zeros(images, 2))
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert len(seen) > 2


class Witness(Linear):
    """Notes the types that it computes in."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        self.types = {*getattr(self, "types", ()), z.dtype}
        return z


def test_autocast_is_off_inside():
    model, x, y = problem(5, 1)
    witness = Witness(model.weight.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        AutoAttack(HUGE).run(witness, x, y)
    assert witness.types == {torch.float32}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"eps": 0.0}, "eps must be above 0"),
        ({"eps": 0.1, "norm": "L0"}, "norm must be one of Linf, L2, L1"),
        ({"eps": 0.1, "version": "custom"}, "version must be one of standard, plus, rand"),
        ({"eps": 0.1, "seed": 0.5}, "seed must be an integer"),
        ({"eps": 0.1, "batch_size": 0}, "batch_size must be an integer of at least 1"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(**params)


def test_bad_labels_and_images_are_refused():
    model, x, y = problem(5, 2)
    attack = AutoAttack(0.1)
    with pytest.raises(ValueError, match="not soft labels"):
        attack.run(model, x, torch.eye(5)[y])
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        attack.run(model, x, y[:1])
    with pytest.raises(ValueError, match=r"y must be in \[0, 4\]"):
        attack.run(model, x, y + 5)
    with pytest.raises(ValueError, match="can't tile images of 4x4 for L2"):
        AutoAttack(0.1, "L2").run(model, x, y)
