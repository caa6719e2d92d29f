"""Common corruptions, as RobustBench judges them.

robustbench 1.1.1 calls the loaders of CIFAR-10-C and CIFAR-100-C with ``prepr``, which they don't
take: ``TypeError: load_cifar10c() got an unexpected keyword argument 'prepr'``. Past that it
compares with AlexNet's errors, from a file that only its repository has, and that has them for
ImageNet alone: ``KeyError: 'AlexNet'``, after everything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from robustlabels._compat.robustbench_package import robustbench

RESULTS = "unaggregated_results.csv", "unaggregated_results_3d.csv"


def has_alexnet(dataset: str, threat_model: str) -> bool:
    """Whether AlexNet's errors lie where RobustBench looks for them, below the working folder."""
    path = Path("model_info", dataset, "corruptions", RESULTS[threat_model.endswith("_3d")])
    return path.is_file() and any(
        line.startswith("AlexNet,") for line in path.read_text(encoding="utf-8").splitlines()
    )


def corruptions_evaluation(
    batch_size: int,
    data_dir: str,
    dataset: Any,
    threat_model: Any,
    device: Any,
    model: nn.Module,
    n_examples: int,
    _to_disk: bool,
    prepr: Callable[..., Any],
    _model_name: str | None,
) -> tuple[float, float]:
    """The mean accuracy over all corruptions and severities, and NaN for the mean error relative to
    AlexNet. Stands in for ``robustbench.eval.corruptions_evaluation``; nothing is written."""
    ours = robustbench().eval
    load = ours.CORRUPTION_DATASET_LOADERS[dataset][threat_model]
    options = {"prepr": prepr} if dataset.value == "imagenet" else {}
    found = []
    for corruption in ours.CORRUPTIONS_DICT[dataset][threat_model]:
        for severity in range(1, 6):
            x, y = load(n_examples, severity, data_dir, corruptions=[corruption], **options)
            share = ours.clean_accuracy(model, x, y, batch_size=batch_size, device=device)
            print(f"corruption={corruption}, severity={severity}: {share:.2%} accuracy")
            found.append(share)
    return math.fsum(found) / len(found), math.nan
