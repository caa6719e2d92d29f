"""Order, ranks, filters and spellings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustlabels.errors import UnknownNameError
from robustlabels.leaderboard import Snapshot, board, entries
from robustlabels.leaderboard.architectures import architecture_key


def test_ranks_read_off_the_published_figures(packed: Snapshot) -> None:
    """Sorted by AutoAttack alone, MeanSparse (75.28, 73.10 by BPDA) would lead CIFAR-10."""
    top = [e.id for e in entries("cifar10", "Linf")[:7]]
    assert top == [
        "Bartoldson2024Adversarial_WRN-94-16",  # 73.71
        "Amini2024MeanSparse_S-WRN-94-16",  # 73.10
        "Bartoldson2024Adversarial_WRN-82-8",  # 71.59
        "Peng2023Robust",  # 71.07
        "Wang2023Better_WRN-70-16",  # 70.69
        "Bai2024MixedNUTS",  # 69.71
        "Amini2024MeanSparse_Ra_WRN_70_16",  # 68.94
    ]
    assert [e.id for e in entries("imagenet", "Linf")[:3]] == [
        "Xu2024MIMIR_Swin-L",  # 59.68
        "Liu2023Comprehensive_Swin-L",  # 59.56
        "Amini2024MeanSparse_Swin-L",  # 58.92
    ]
    assert [e.id for e in entries("cifar10", "L2")[:2]] == [
        "Wang2023Better_WRN-70-16",  # 84.97
        "Amini2024MeanSparse_S-WRN-70-16",  # 84.33
    ]
    assert entries("imagenet", "corruptions")[0].id == "Tian2022Deeper_DeiT-B"


@pytest.mark.parametrize("name", ["cifar10/Linf", "cifar10/L2", "cifar100/Linf", "imagenet/Linf"])
def test_the_order_is_robustbenchs(packed: Snapshot, shared: Path, name: str) -> None:
    """RobustBench sorts by 'external' where there is one, else by 'autoattack_acc'."""
    published = {}
    for path in (shared / "model_info" / name).glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        published[path.stem] = float(facts.get("external") or facts["autoattack_acc"])
    found = board(*name.split("/"), packed)
    ours = [published[e.id] for e in found.entries]
    assert ours == sorted(published.values(), reverse=True)


def test_equals_share_a_rank(packed: Snapshot) -> None:
    """Kang2021Stable's external 64.20 is Rebuffi2021Fixing_70_16_cutmix_ddpm's."""
    found = board("cifar10", "Linf", packed)
    ranks = {e.id: found.rank(e.robust) for e in found.entries}
    # Above 64.20: 73.71 73.10 71.59 71.07 70.69 69.71 68.94 68.06 67.73 67.31 66.56 66.10 65.87
    # 65.79 64.58.
    assert ranks["Kang2021Stable"] == ranks["Rebuffi2021Fixing_70_16_cutmix_ddpm"] == 16
    assert ranks["Xu2023Exploring_WRN-28-10"] == 18  # 63.89
    assert found.rank(1.0) == 1
    assert found.rank(0.7371) == 1
    assert found.rank(0.73705) == 2
    assert found.rank(0.0) == 98  # beside the last two of 99, Standard and Alfarra2020ClusTR


def test_the_usual_eps(packed: Snapshot) -> None:
    """An evaluation's eps is held against it."""
    assert board("cifar10", "Linf", packed).eps == "8/255"
    assert board("cifar10", "Linf", packed).radius == 8 / 255
    assert board("cifar10", "L2", packed).eps == "0.5"
    assert board("imagenet", "Linf", packed).eps == "4/255"
    assert board("imagenet", "corruptions", packed).eps is None


def test_filters(packed: Snapshot) -> None:
    """Synthetic data are no extra data to RobustBench; a fair row needs both left out."""
    wrn = entries("cifar10", "Linf", architecture="wrn_34_10", extra_data=False)
    assert [e.id for e in wrn[:3]] == [
        "Addepalli2021Towards_WRN34",
        "Addepalli2022Efficient_WRN_34_10",
        "Chen2024Data_WRN_34_10",
    ]
    everything = entries("cifar10", "Linf", architecture="WRN-34-10")
    assert {e.id for e in everything} - {e.id for e in wrn} == {
        "Rade2021Helper_extra",  # extra
        "Sehwag2021Proxy",  # 10M synthetic
    }
    alone = entries("cifar10", "Linf", extra_data=False)
    assert alone[0].id == "Chen2024Data_WRN_34_20"
    assert not any(e.extra_data or e.synthetic for e in alone)
    assert len(alone) == 51
    assert len(entries("cifar10", "Linf")) == 99


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("WideResNet-28-10", "WRN-28-10"),
        ("WideResNet-28-10", "wrn-28-10"),
        ("WideResNet-28-10", "WRN_28_10"),
        ("WideResNet-28-10", "wide_resnet28_10"),
        ("WideResNet-28-10", "Wide ResNet 28-10"),
        ("PreActResNet-18", "preactresnet18"),
        ("PreActResNet-18", "PARN18"),
        ("ResNet-18", "resnet18"),
        ("ResNet-50", "RN-50"),
        ("ResNeXt29_32x4d", "ResNeXt-29-32x4d"),
        ("ConvNeXt-B + ConvStem", "convnext-b+convstem"),
        ("MeanSparse WideResNet-70-16", "meansparse-wrn-70-16"),
    ],
)
def test_spellings_of_one_architecture(one: str, other: str) -> None:
    """Our names, RobustBench's ids and the papers' are all in use."""
    assert architecture_key(one) == architecture_key(other)


def test_no_two_published_architectures_become_one(packed: Snapshot) -> None:
    """28-10 is not 281-0, and Swin-B not ConvNeXt-B."""
    names = {e.architecture for e in packed.entries}
    assert len({architecture_key(name) for name in names}) == len(names) == 54
    assert architecture_key("WRN-28-10") != architecture_key("WRN-281-0")
    assert architecture_key("ResNet-18") != architecture_key("PreActResNet-18")
    assert architecture_key("R18") != architecture_key("ResNet-18")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cifar-10", "Linf"), "'cifar-10'; did you mean 'cifar10' or 'cifar100'? (there are"),
        (("svhn", "Linf"), "no leaderboard of data set 'svhn'; known: cifar10, cifar100, imagenet"),
        (("cifar10", "linf"), "cifar10 for threat 'linf'; did you mean 'Linf'? (there are L2"),
        (
            ("cifar100", "L2"),
            "no leaderboard of cifar100 for threat 'L2'; known: Linf, corruptions",
        ),
    ],
)
def test_unknown_leaderboards(arguments: tuple[str, str], says: str) -> None:
    """The nearest match, and what is allowed."""
    with pytest.raises(UnknownNameError) as caught:
        entries(*arguments)
    assert says in str(caught.value)


def test_an_unknown_architecture() -> None:
    """An empty table would look like an answer."""
    with pytest.raises(UnknownNameError) as caught:
        entries("cifar10", "Linf", architecture="wrn-94-61")
    assert "cifar10 Linf has no entry of architecture 'wrn-94-61'" in str(caught.value)
    assert "did you mean 'WideResNet-94-16'" in str(caught.value)
