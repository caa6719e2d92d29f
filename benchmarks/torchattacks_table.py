"""What each torchattacks attack can do, measured: the tables of docs/torchattacks.md.

    python benchmarks/torchattacks_table.py           # writes them there
    python benchmarks/torchattacks_table.py --print   # shows them

Three small networks with 10 classes and 10 virtual ones are trained for seconds on scikit-learn's
digits: 1x32x32 and 3x32x32 (enlarged and tinted) and 3x8x8. Every cell is what happened when
torchattacks was called; the budgets are small, so the counts say nothing of an attack's strength.
With --data DIR, the 3x32x32 network is trained on the JPEG copy of CIFAR-10 in DIR instead.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import inspect
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchattacks
from torch import Tensor, nn

import robustlabels as rl
from robustlabels.integrations.torchattacks import for_torchattacks

PAGE = Path(__file__).parents[1] / "docs" / "torchattacks.md"
NAMES = sorted(set(torchattacks.__all__) - set(torchattacks.__wrapper__))
K, V, N = 10, 10, 6
RADII = {"Linf": 0.1, "L2": 4.0, "L1": 40.0}
# Enough to see what an attack does, not how strong it is.
BUDGETS: dict[str, dict[str, Any]] = {
    "AutoAttack": {"seed": 0},  # its default comes from the clock
    "EADEN": {"max_iterations": 20, "binary_search_steps": 6},
    "EADL1": {"max_iterations": 20, "binary_search_steps": 6},
    "JSMA": {"gamma": 0.003},
    "OnePixel": {"pixels": 5, "steps": 5},
    "Pixle": {"restarts": 2, "max_iterations": 5},
    "SPSA": {"nb_iter": 3},
    "SparseFool": {"steps": 2},
    "Square": {"n_queries": 400},
}
COLUMNS = [
    "attack", "eps", "soft labels", "targeted", "1 channel", "3 channels", "8x8", "virtual classes",
    "in the ball", "modes restored", "fooled by a virtual class only", "remark",
]  # fmt: skip
COUNTS = [
    "attack", "all attacked and judged", "all attacked, real judged", "real attacked and judged",
]  # fmt: skip
NONE = "–"  # noqa: RUF001
STABLE = COLUMNS[:10]
"""Columns that another machine must measure alike: no counts, no texts."""


def yes(what: bool) -> str:
    return "yes" if what else "no"


@dataclass(frozen=True)
class Subject:
    """A network with K + V outputs, and images that it classifies correctly."""

    raw: nn.Module
    x: Tensor
    y: Tensor

    @property
    def deployed(self) -> nn.Module:
        return for_torchattacks(self.raw, K)

    def cut(self, classes: int) -> nn.Module:
        """The same network with a last layer of fewer rows: it never had the other classes."""
        model = copy.deepcopy(self.raw)
        old = model.model.fc
        new = nn.Linear(old.in_features, classes)
        with torch.no_grad():
            new.weight.copy_(old.weight[:classes])
            new.bias.copy_(old.bias[:classes])
        model.model.fc = new
        return model.eval()


@dataclass(frozen=True)
class Outcome:
    """What one call of an attack gave: images, or an error in one line."""

    x_adv: Tensor | None
    error: str = ""

    def outside(self) -> float:
        """How far the images leave [0, 1]; NaN for NaN."""
        assert self.x_adv is not None
        return float(F.relu((self.x_adv.detach() - 0.5).abs() - 0.5).max())

    def works(self, x: Tensor) -> bool:
        """Images of the right shape, and in [0, 1] by less than a hundredth of a grey level."""
        return self.x_adv is not None and self.x_adv.shape == x.shape and self.outside() < 3e-5

    def same(self, other: Outcome) -> bool:
        """All but a hundredth of the values: rounding may turn the sign of a gradient near 0."""
        if self.x_adv is None or other.x_adv is None:
            return False
        return float(((self.x_adv - other.x_adv).abs() > 1e-3).float().mean()) < 0.01


def called(
    name: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    set_up: Callable[[Any], None] | None = None,
    seed: int = 0,
    **params: Any,
) -> Outcome:
    """One attack, made and called as a torchattacks user would; eps where it has one."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    kind = getattr(torchattacks, name)
    accepted = inspect.signature(kind.__init__).parameters
    params = {**BUDGETS.get(name, {}), **params}
    eps = params.pop("eps", RADII["L2" if name in ("PGDL2", "PGDRSL2") else "Linf"])
    params |= dict.fromkeys({"eps", "max_epsilon"} & set(accepted), eps)
    try:
        attack = kind(model, **params)
        if set_up is not None:
            set_up(attack)
        return Outcome(attack(x, y))
    except Exception as error:
        return Outcome(None, f"{type(error).__name__}: {' '.join(str(error).split())}")


def row(name: str, grey: Subject, colour: Subject, small: Subject) -> list[str]:
    """Every cell of one attack; what does not depend on the images is measured on small ones."""
    remarks: list[str] = []
    shapes = {"1 channel": grey, "3 channels": colour, "8x8": small}
    plain = {shown: called(name, s.deployed, s.x, s.y) for shown, s in shapes.items()}
    remarks += [f"{shown}: {found.error}" for shown, found in plain.items() if found.error]
    norms, inside = radius(name, small, remarks)
    cells = [
        name,
        norms,
        soft_labels(name, small, plain["8x8"]),
        targeted(name, small, remarks),
        *(yes(plain[shown].works(s.x)) for shown, s in shapes.items()),
        yes(plain["8x8"].same(called(name, small.cut(K), small.x, small.y))),
        inside,
        modes_restored(name, small, remarks),
        f"{virtual_only(name, small)} of {N}",
    ]
    other_classes(name, small, remarks)
    single = called(name, small.deployed, small.x[:1], small.y[:1])
    if single.error and not plain["8x8"].error:
        remarks.append(f"a single image: {single.error}")
    generator(name, small, remarks)
    images = [found for found in plain.values() if found.x_adv is not None]
    if any(found.x_adv.requires_grad for found in images):
        remarks.append("returns a graph")
    if (worst := max(found.outside() for found in images)) > 1e-6:
        remarks.append(f"leaves [0, 1] by {worst:.0e}")
    return [*cells, "; ".join(remarks)]


def radius(name: str, subject: Subject, remarks: list[str]) -> tuple[str, str]:
    """The norms whose ball it stays in, and whether it always does."""
    accepted = inspect.signature(getattr(torchattacks, name).__init__).parameters
    if not {"eps", "max_epsilon"} & set(accepted):
        return NONE, NONE
    found, inside = [], []
    orders = {"L1": 1.0, "L2": 2.0, "Linf": torch.inf}
    for norm in RADII if "norm" in accepted else [""]:
        eps = RADII[norm or "Linf"]
        given: dict[str, Any] = {"norm": norm, "eps": eps} if norm else {"eps": eps}
        outcome = called(name, subject.deployed, subject.x, subject.y, **given)
        if outcome.x_adv is None:
            if (
                "AssertionError" not in outcome.error
            ):  # that is a norm that it doesn't claim to have
                remarks.append(f"norm={norm!r}: {outcome.error}")
            continue
        away = (outcome.x_adv.detach() - subject.x).flatten(1).double()
        fits = [n for n, p in orders.items() if away.norm(p, dim=1).max() <= eps + 1e-5]
        inside.append(norm in fits if norm else bool(fits))
        found += [norm or fits[0]] if inside[-1] else []
    return ", ".join(found), yes(all(inside) and bool(found))


def soft_labels(name: str, subject: Subject, hard: Outcome) -> str:
    """Whether a one-hot row does what the class does, and another row something else."""

    def given(y: Tensor) -> Outcome:
        return called(name, subject.deployed, subject.x, y)

    one_hot = F.one_hot(subject.y, K).float()
    neighbour = one_hot.roll(1, dims=1)
    if hard.same(given(neighbour.argmax(dim=1))):
        return "ignores labels"
    mixed = 0.55 * one_hot + 0.45 * neighbour
    return yes(given(one_hot).same(hard) and not given(mixed).same(hard))


def targeted(name: str, subject: Subject, remarks: list[str]) -> str:
    """Whether each of two targets gains on the other when it is aimed at; NONE without a mode."""
    model, x, y = subject.deployed, subject.x, subject.y

    def aimed(shift: int) -> Outcome:
        def aim(attack: Any) -> None:
            attack.set_mode_targeted_by_function(lambda _, y: (y + shift) % K, quiet=True)

        return called(name, model, x, y, aim)

    one, two = aimed(3), aimed(6)
    if one.x_adv is None or two.x_adv is None:
        if "not supported" in one.error:
            return NONE
        remarks.append(f"targeted: {one.error or two.error}")
        return "no"
    with torch.no_grad():
        moved = model(one.x_adv) - model(two.x_adv)
    first, second = (moved.gather(1, ((y + shift) % K).unsqueeze(1)) for shift in (3, 6))
    reached = not one.same(two) and float((first - second).mean()) > 0
    if not reached:
        why = "ignores the target" if one.same(two) else "does not approach the target"
        remarks.append(f"targeted: {why}")
    return yes(reached)


def modes_restored(name: str, subject: Subject, remarks: list[str]) -> str:
    """After a call on a model in train mode with one frozen batch norm."""
    model = copy.deepcopy(subject.raw).train()
    model.model.bn1.eval()
    before = [m.training for m in model.modules()]
    called(name, model, subject.x, subject.y)
    if any(p.grad is not None for p in model.parameters()):
        remarks.append("leaves gradients in the parameters")
    return yes(before == [m.training for m in model.modules()])


def virtual_only(name: str, subject: Subject) -> int:
    """Images that fool all K + V outputs, and not the real classes, when all are attacked."""
    model = copy.deepcopy(subject.raw).eval()
    outcome = called(name, model, subject.x, subject.y)
    if outcome.x_adv is None:
        return 0
    with torch.no_grad():
        logits = model(outcome.x_adv)
    fooled = logits.argmax(dim=1) != subject.y
    return int((fooled & (logits[:, :K].argmax(dim=1) == subject.y)).sum())


def other_classes(name: str, subject: Subject, remarks: list[str]) -> None:
    """The network cut to 4 classes, with the attack's own defaults and an eps that fools nobody."""
    few = subject.y < 4
    outcome = called(name, subject.cut(4), subject.x[few], subject.y[few], eps=1e-4)
    if outcome.error:
        remarks.append(f"4 classes: {outcome.error}")


def generator(name: str, subject: Subject, remarks: list[str]) -> None:
    """Whether torch's generator is in the same state afterwards, whatever it was before."""

    def after(seed: int) -> Tensor:
        called(name, subject.deployed, subject.x, subject.y, seed=seed)
        return torch.get_rng_state()

    if torch.equal(after(1), after(2)):
        remarks.append("seeds torch's generator")


# The networks.


def subjects(data: str | None = None) -> tuple[Subject, Subject, Subject]:
    """Trained networks and their images."""
    digits = rl.make_dataset("digits").train_split()
    given = [(enlarged(digits.x, *shape), digits.y) for shape in ((1, 32), (3, 32), (3, 8))]
    if data is not None:
        split = rl.make_dataset("cifar10-jpeg75", data).train_split()
        some = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:4000]
        given[1] = next(iter(split.batches([some], torch.device("cpu"))))
    grey, colour, small = (trained(*pair) for pair in given)
    return grey, colour, small


def enlarged(x: Tensor, channels: int, size: int) -> Tensor:
    """Digits (N, 1, 8, 8) as (N, C, S, S), in two colours each; some pixels are 0 or 1."""
    seeded = torch.Generator().manual_seed(0)
    dark, light = torch.rand(2, len(x), channels, 1, 1, generator=seeded) * 0.5
    dark, light = (dark - 0.1).clamp_min(0), (light + 0.6).clamp_max(1)
    big = F.interpolate(x, size=(size, size), mode="bilinear")
    return dark + (light - dark) * big


def trained(x: Tensor, y: Tensor) -> Subject:
    channels = x.shape[1]
    result = rl.fit(
        {"name": "small-cnn", "width": 8, "mean": [0.4] * channels, "std": [0.25] * channels},
        (x, y),
        scheme={"name": "vs", "alpha": 0.7, "virtual_classes": V},
        trainer="standard",
        epochs=6,
        batch_size=32,
        num_classes=K,
    )
    model = result.model
    with torch.no_grad():
        right = (model(x[:1000]).argmax(dim=1) == y[:1000]).nonzero().flatten()
    # The first of each class in turn: also classes below 4, and labels that differ.
    first = [int(right[y[right] == k][0]) for k in range(K) if (y[right] == k).any()][:N]
    assert len(first) == N, f"the network knows {len(first)} classes only"
    return Subject(model, x[first], y[first])


def example() -> list[list[str]]:
    """Robust accuracy of one network, by three ways of counting."""
    images = rl.make_dataset("digits").test_split()
    x, y = images.x[::4], images.y[::4]
    model = rl.fit(
        {"name": "mlp", "hidden": [64]}, "digits", {"name": "vs", "alpha": 0.9}, eps=0.1, epochs=20
    ).model
    deployed = for_torchattacks(model, K)
    rows = []
    for name in ("PGD", "APGD", "AutoAttack"):
        more = {"PGD": {"alpha": 0.025}, "AutoAttack": {"seed": 0}}.get(name, {})
        on_all, on_real = (called(name, m, x, y, eps=0.1, **more).x_adv for m in (model, deployed))
        with torch.no_grad():
            counts = [
                float((judge(images).argmax(dim=1) == y).float().mean())
                for judge, images in ((model, on_all), (deployed, on_all), (deployed, on_real))
            ]
        rows.append([name, *(f"{c:.2f}" for c in counts)])
    return rows


# The page.


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(c.replace('|', '/') for c in cells)} |" for cells in lines)


def parsed(page: str, marker: str) -> list[dict[str, str]]:
    """A table of the page, as it was written."""
    lines = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in between(page, marker)[1].splitlines()
        if line.startswith("|")
    ]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def between(page: str, marker: str) -> tuple[str, str, str]:
    parts = re.split(rf"(<!-- {marker} -->\n|<!-- /{marker} -->)", page)
    assert len(parts) == 5, f"{PAGE.name} needs one pair of markers {marker!r}"
    return parts[0] + parts[1], parts[2], parts[3] + parts[4]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print", action="store_true", help="show the tables, write nothing")
    parser.add_argument("--data", help="folder with cifar10-jpeg75-*.npz")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    networks = subjects(args.data)
    rows = [row(name, *networks) for name in NAMES]
    counts = example()
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in ("torchattacks", "torch"))
    colour = "the JPEG copy of CIFAR-10" if args.data else "digits"
    seconds = time.process_time() - start
    note = (
        f"Measured with {versions}, Python {platform.python_version()}, in {seconds:.0f} s on one "
        f"core; 3x32x32: {colour}."
    )
    tables = {
        "attacks": f"{table(COLUMNS, rows)}\n\n{note}\n",
        "virtual": f"{table(COUNTS, counts)}\n",
    }
    if args.print:
        print(*tables.values(), sep="\n")
        return 0
    page = PAGE.read_text(encoding="utf-8")
    for marker, text in tables.items():
        page = text.join(between(page, marker)[::2])
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
