"""Architectures have many spellings: WideResNet-28-10, WRN_28_10 and wrn-28-10 are one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from robustlabels.errors import UnknownNameError, nearest

_SHORT = {
    "wrn": "WideResNet",
    "parn": "PreActResNet",
    "prn": "PreActResNet",
    "rn": "ResNet",
}
_SHORT_NAME = re.compile(rf"\b({'|'.join(_SHORT)})(?=[\W_]?\d)", re.IGNORECASE)


def spelt_out(name: str) -> str:
    """The name with WRN, PARN, PRN and RN in front of a number written in full."""
    return _SHORT_NAME.sub(lambda found: _SHORT[found[1].lower()], name)


def architecture_key(name: str) -> str:
    """What all spellings of an architecture have in common.

    Written in full and in lower case; what separates two numbers is a hyphen, every other
    separator but "+" goes. R18 is not written in full: papers mean either ResNet by it.
    """
    text = re.sub(r"[^a-z0-9+]+", "-", spelt_out(name).lower())
    return re.sub(r"(?<!\d)-|-(?!\d)", "", text)


def known_architecture(name: str, known: Iterable[str], where: str) -> str:
    """The key of an architecture that is there.

    Raises:
        KeyError: none of those known has it; the message names the nearest.
    """
    names = set(known)
    key = architecture_key(name)
    if key not in {architecture_key(n) for n in names}:
        raise UnknownNameError(
            f"{where} has no entry of architecture {name!r}; {nearest(spelt_out(name), names)}"
        )
    return key
