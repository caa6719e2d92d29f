"""The ImageNet validation images that RobustBench judges on: its package carries their list.

The files are read and RobustBench is not imported. robustbench 1.1.1's own loader counts the
classes in ``val``: a folder of its 5,000 images only has 997 of them, and 4,256 labels are wrong.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from robustlabels.errors import missing_extra


def imagenet_images() -> tuple[str, ...]:
    """The 5,000 paths WNID/NAME.JPEG below ``val``, in RobustBench's order.

    Raises:
        ImportError: RobustBench is not installed.
    """
    return tuple(_read("imagenet_test_image_ids.txt").split())


def imagenet_classes() -> tuple[str, ...]:
    """The 1,000 WNIDs, by class index: they are sorted.

    Raises:
        ImportError: RobustBench is not installed.
    """
    index: dict[str, int] = json.loads(_read("imagenet_class_to_id_map.json"))
    return tuple(sorted(index, key=index.__getitem__))


def _read(name: str) -> str:
    spec = importlib.util.find_spec("robustbench")
    # torchattacks 3.5.1 brings a package of this name, without these files.
    path = Path((spec and spec.origin) or "").parent / "helper_files" / name
    if not path.is_file():
        raise missing_extra("RobustBench's list of ImageNet images", "robustbench")
    return path.read_text(encoding="utf-8")
