"""Every model of RobustBench's zoo, loaded here from staged checkpoints: which ones work.

Each architecture is built with random weights, which are saved as RobustBench expects them, and
loaded through ``robustlabels.evaluation.robustbench.load_model``; the logits must be the same. It
says nothing of the published checkpoints, which no machine without internet can fetch.

    python benchmarks/robustbench_zoo.py --out zoo.json [--only cifar10/Linf] [--folder DIR]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustlabels._compat.robustbench_package import robustbench
from robustlabels._compat.robustbench_zoo import ZooModel
from robustlabels.errors import UserError
from robustlabels.evaluation.robustbench import load_model

State = dict[str, Any]
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet": 224}
_LAST = ("Kireev2021Effectiveness", "Andriushchenko2020Understanding")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", default="")
    parser.add_argument("--folder", type=Path, help="for the staged checkpoints, up to 3 GB")
    options = parser.parse_args()
    rows = []
    for name in names():
        if options.only in name:
            folder = Path(tempfile.mkdtemp(dir=options.folder))
            os.environ["TORCH_HOME"] = str(folder)
            try:
                rows.append(row(name, folder))
            finally:
                shutil.rmtree(folder)
            gc.collect()
            print(rows[-1], flush=True)
    summary = {"works": sum(r["works"] for r in rows), "of": len(rows), "models": rows}
    options.out.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{summary['works']} of {summary['of']}")


def names() -> list[str]:
    zoo = robustbench().model_zoo.model_dicts
    return [f"{d.value}/{t.value}/{n}" for d in zoo for t in zoo[d] for n in zoo[d][t]]


def row(name: str, folder: Path) -> dict[str, Any]:
    start = time.perf_counter()
    entry = ZooModel.by_name(name)
    try:
        torch.manual_seed(0)
        model = entry.architecture()
        states = staged(entry, model)
        for file, state in zip(entry.files(folder), states, strict=True):
            file.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(state, file.path)
        x = torch.rand(1, 3, SIDES[entry.dataset], SIDES[entry.dataset])
        loaded = load_model(entry.name, folder, entry.dataset, entry.threat_model)
        with torch.no_grad():
            far = float((model(x) - loaded(x)).abs().max() / model(x).abs().max().clamp_min(1e-12))
        why = "" if far < 1e-5 else f"logits differ by {far:.2g}"
    except (UserError, RuntimeError, AttributeError, KeyError, TypeError, ValueError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    return {"model": name, "works": not why, "why": why, "s": round(time.perf_counter() - start, 1)}


def staged(entry: ZooModel, model: Any) -> list[State]:
    """The files' contents from which RobustBench makes this model."""
    if entry.timm_name is not None:  # some are normalised, some not
        return [getattr(model, "model", model).state_dict()]
    if not isinstance(entry.entry["gdrive_id"], list):
        state = model.state_dict()
        if entry.name.startswith(_LAST):
            return [{"last": state}]
        if entry.dataset == "imagenet":
            state = {k.removeprefix("model."): v for k, v in state.items()}
        return [{k: v for k, v in state.items() if not k.startswith("normalize.")}]
    if entry.name.startswith("Bai2023"):
        mixed = model.comp_model
        rest = {"model": mixed.policy_net.state_dict(), "bn": mixed.bn.state_dict()}
        return [*(part.state_dict() for part in mixed.models), rest]
    parts: list[nn.Module] = list(getattr(model, "models", ()))
    if entry.name.startswith("Bai2024"):
        parts = [model.std_model, model.rob_model]
    if entry.dataset == "imagenet":
        parts[1] = parts[1].model  # type: ignore[assignment]
    return [part.state_dict() for part in parts]


if __name__ == "__main__":
    main()
