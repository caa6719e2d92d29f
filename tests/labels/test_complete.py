"""complete(): what makes somebody else's object a label scheme."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustlabels.labels import LabelLoss, OneHot, Scheme, VirtualSmoothing, complete


def rows(y, logits=None, teacher_logits=None, progress=1.0):
    """Labels of a minimal scheme with 3 classes."""
    return torch.eye(3)[y]


def minimal(**changed: Any) -> Any:
    """The least that the contract asks for, but for ``changed``."""
    base = {"num_classes": 3, "num_outputs": 3, "needs": frozenset(), "labels": rows}
    return SimpleNamespace(**(base | changed))


def test_fills_in_every_default_of_the_contract() -> None:
    """The engine reads these attributes from anybody's scheme: without defaults each plugin would
    have to know them all."""
    scheme = complete(minimal())
    assert scheme.teacher is None
    assert scheme.attack_labels == "hard"
    assert scheme.ema_decay == 0.995
    assert scheme.check_values is True
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])
    moved, mix = scheme.perturb(x, y, torch.Generator())
    assert moved is x
    assert mix is None
    assert scheme.perturb(x, y)[0] is x


def test_a_teacher_that_is_needed_is_frozen_by_default() -> None:
    """An EMA of the student is a choice that a plugin must make."""
    assert complete(minimal(needs={"teacher"})).teacher == "frozen"


def test_keeps_what_is_declared() -> None:
    """A default over a declaration would silently train another method."""
    mine = minimal(
        needs={"teacher"},
        teacher="ema",
        ema_decay=0.9,
        attack_labels="soft",
        check_values=False,
        perturb=lambda x, y, generator=None: (x + 1, None),
    )
    scheme = complete(mine)
    assert scheme is mine
    assert (scheme.teacher, scheme.ema_decay, scheme.attack_labels) == ("ema", 0.9, "soft")
    assert scheme.check_values is False
    assert scheme.perturb(torch.zeros(1), torch.tensor([0]))[0].item() == 1


@dataclass(frozen=True)
class Frozen:
    """As plugin authors like them."""

    num_classes: int = 3
    num_outputs: int = 3
    needs: frozenset[str] = field(default_factory=frozenset)

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return rows(y)


@dataclass(frozen=True, slots=True)
class Slotted:
    """No room for defaults."""

    num_classes: int = 3
    num_outputs: int = 3
    needs: frozenset[str] = field(default_factory=frozenset)

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return rows(y)


def test_a_frozen_dataclass_is_a_scheme() -> None:
    """Its own setter refuses the defaults."""
    scheme = complete(Frozen())
    assert scheme.attack_labels == "hard"
    assert isinstance(scheme, Scheme)
    assert LabelLoss(Frozen())(torch.zeros(2, 3), torch.tensor([0, 1])).item() > 0


def test_a_slotted_scheme_is_told_what_to_declare() -> None:
    """There is nowhere to put the defaults: not an AttributeError from object.__setattr__."""
    with pytest.raises(ValueError, match=r"shy .*teacher.*__slots__"):
        complete(Slotted(), "shy")


def test_a_minimal_scheme_trains() -> None:
    """The design: a scheme is anything with these four; no base class is needed."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 3)
    x = torch.eye(3).repeat(4, 1)
    y = torch.arange(12) % 3
    criterion = LabelLoss(minimal())
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = criterion(layer(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_a_minimal_scheme_goes_into_vs() -> None:
    """vs takes any other scheme as inner one, plugins' too."""
    scheme = VirtualSmoothing(3, alpha=0.5, virtual_classes=1, inner=minimal())
    assert scheme.labels(torch.tensor([1])).tolist() == [[0, 0.5, 0, 0.5]]


def test_a_needed_mix_and_index_reach_a_third_partys_labels() -> None:
    """They are passed only to schemes that declare them."""
    seen: dict[str, Any] = {}

    def labels(y, logits=None, teacher_logits=None, progress=1.0, *, mix, index):
        seen.update(mix=mix, index=index)
        return rows(y)

    criterion = LabelLoss(minimal(needs={"mix", "index"}, labels=labels))
    mix, index = object(), torch.tensor([5])
    criterion(torch.zeros(1, 3), torch.tensor([0]), mix=mix, index=index)
    assert seen["mix"] is mix
    assert seen["index"] is index


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (None, r"thing is not a label scheme: it lacks num_classes, num_outputs, needs, labels"),
        (lambda y: y, r"lacks num_classes, num_outputs, needs, labels"),
        (torch.nn.Linear(3, 3), r"lacks num_classes, num_outputs, needs, labels"),
        (OneHot, "a class, not a label scheme"),  # the class, not an instance
        (SimpleNamespace(num_classes=3, needs=(), labels=rows), r"it lacks num_outputs$"),
        (minimal(labels=torch.zeros(3)), r"it lacks a method labels\(\)"),
        (
            minimal(needs={"gradients"}),
            r"needs may hold index, logits, mix, teacher, not gradients",
        ),
        (minimal(needs="logits"), r"needs"),
        (minimal(needs=None), r"needs must be a set .*not None"),
        (minimal(num_outputs=2), r"num_outputs >= num_classes >= 2, not 2 and 3"),
        (minimal(num_classes=1), r"num_outputs >= num_classes >= 2, not 3 and 1"),
        (minimal(num_classes="3"), r"num_outputs >= num_classes >= 2, not 3 and '3'"),
        (minimal(num_outputs=None), r"num_outputs >= num_classes >= 2, not None and 3"),
        (minimal(teacher="resnet"), r"teacher must be None, 'ema' or 'frozen'.*'resnet'"),
        (minimal(needs={"teacher"}, teacher=None), r"needs a teacher.*'ema' or 'frozen'"),
        (minimal(attack_labels="adversarial"), r"attack_labels must be 'hard' or 'soft'.*'adver"),
    ],
)
def test_refuses_what_is_not_a_scheme(thing: object, message: str) -> None:
    """A plugin author's mistake must be named here, not surface in the middle of a step."""
    with pytest.raises(ValueError, match=message) as caught:
        complete(thing, "thing")
    assert str(caught.value).startswith("thing")


def test_refuses_circular_schemes() -> None:
    """The contract: a soft attack needs the label, which needs the attacked input's logits."""
    with pytest.raises(ValueError, match=r"loop is circular.*attack_labels='hard'"):
        complete(minimal(needs={"logits"}, attack_labels="soft"), "loop")
    complete(minimal(needs={"logits"}, attack_labels="hard"))
    complete(minimal(needs={"teacher"}, attack_labels="soft"))


def test_label_loss_refuses_what_is_not_a_scheme() -> None:
    """LabelLoss("vs") is a likely slip: names are make_scheme's."""
    with pytest.raises(ValueError, match="is not a label scheme"):
        LabelLoss("vs")
