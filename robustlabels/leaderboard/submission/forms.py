"""RobustBench's forms, filled in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from robustlabels.leaderboard.fairness import eps_text
from robustlabels.leaderboard.submission.parts import NONE, Figures, Submission

REPOSITORY = "https://github.com/RobustBench/robustbench"


def model_info(submission: Submission, figures: Figures) -> dict[str, Any]:
    """``model_info/DATASET/THREAT/ID.json`` in RobustBench's schema: accuracies are percentages, as
    text, with two decimals."""
    evaluation, paper = submission.judged.evaluation, submission.paper
    note = footnote(submission)
    info: dict[str, Any] = {
        "link": paper.link,
        "name": paper.title,
        "authors": paper.authors,
        "additional_data": submission.declared.extra_data,
        "number_forward_passes": 1,
        "dataset": evaluation.dataset,
        "venue": paper.venue,
        "architecture": submission.architecture,
        "eps": eps_text(evaluation.eps, evaluation.norm),
        "clean_acc": _percent(figures.clean),
        "reported": _percent(figures.best_known),
        "autoattack_acc": _percent(figures.autoattack),
    }
    if _percent(figures.best_known) != _percent(figures.autoattack):
        info["external"] = _percent(figures.best_known)
    if note:
        info["footnote"] = note
    masked = evaluation.audit is not None and not evaluation.audit.consistent
    info["unreliable"] = bool(figures.flags) or masked
    return info


def footnote(submission: Submission) -> str:
    """Synthetic data, which have no field of their own, and what the authors add."""
    synthetic = submission.declared.synthetic
    sentence = f"It uses additional {synthetic} synthetic images in training."
    return " ".join(
        filter(
            None,
            (sentence if synthetic not in (None, NONE) else "", submission.declared.footnote),
        )
    )


def new_model_form(submission: Submission, figures: Figures) -> str:
    """The issue "New Model(s)"."""
    evaluation, paper, declared = (
        submission.judged.evaluation,
        submission.paper,
        submission.declared,
    )
    known = submission.exported is not None and not submission.exported.code
    versions = submission.facts.get("versions", {})
    method = f"AutoAttack, standard version, all {evaluation.n:,} images, seed "
    method += f"{submission.facts.get('seed')}, batches of {submission.facts.get('batch_size')}"
    method += f", by robustlabels {versions.get('robustlabels', '')}".rstrip()
    if figures.best_known < figures.autoattack:
        method += f"; all attacks of the evaluation together leave {figures.best_known:.2%}"
    if evaluation.virtual_classes:
        method += f"; trained with {evaluation.virtual_classes} virtual classes, which are cut off"
    if declared.audit_note:
        method += f"; the audit of masked gradients: {declared.audit_note}"
    elif evaluation.audit is not None:
        method += f"; the audit of masked gradients: {evaluation.audit.verdict}"
    custom = "" if declared.licence == "MIT" else f" {declared.licence}"
    extra = "true" if declared.extra_data else "false"
    extra += f" ({footnote(submission)})" if footnote(submission) else ""
    return f"""\
<!-- Title: [New Model] {paper.id} -->

# Paper Information

- **Paper Title**: {paper.title}
- **Paper URL**: {paper.link}
- **Paper authors**: {paper.authors}

# Leaderboard Claim(s)

## Model 1

- **Architecture**: {submission.architecture}
- **Threat Model**: {evaluation.norm}
- **eps**: {eps_text(evaluation.eps, evaluation.norm)}
- **Clean accuracy**: {figures.clean:.2%}
- **Robust accuracy**: {figures.autoattack:.2%}
- **Additional data**: {extra}
- **Evaluation method**: {method}
- **Checkpoint and code**: {declared.checkpoint_url or "<URL of the checkpoint and the code>"}

# Model Zoo:

- [x] I want to add my models to the Model Zoo (check if true)
- [{"x" if known else " "}] I use an architecture that is included among
  those [here]({REPOSITORY}/tree/master/robustbench/model_zoo/architectures) or in `timm`. \
If not, I added the link to the architecture implementation so that it can be added.
- [x] I agree to release my model(s) under MIT license (check if true) **OR** under a custom \
license, located here:{custom}
"""


def autoattack_log(submission: Submission, figures: Figures, x_adv: Tensor) -> str:
    """AutoAttack's log in its own format; the times after the single attacks are not known."""
    evaluation = submission.judged.evaluation
    distance = submission.facts["attacks"][figures.name].get("max_perturbation")
    total = "" if figures.seconds is None else f" (total time {figures.seconds:.1f} s)"
    lines = [
        "setting parameters for standard version",
        f"using standard version including {', '.join(figures.after)}.",
        f"initial accuracy: {figures.clean:.2%}",
        *(
            f"robust accuracy after {attack.upper()}: {share:.2%}"
            for attack, share in figures.after.items()
        ),
        f"max {evaluation.norm} perturbation: {distance or 0.0:.5f}, nan in tensor: "
        f"{int(x_adv.isnan().sum())}, max: {float(x_adv.max()):.5f}, min: {float(x_adv.min()):.5f}",
        f"robust accuracy: {figures.autoattack:.2%}",
    ]
    lines[-3] += total
    lines += [f"flag: {flag}" for flag in figures.flags]
    return "\n".join(lines) + "\n"


def readme(submission: Submission, figures: Figures) -> str:
    """What lies in the folder, and what to do next."""
    evaluation, paper = submission.judged.evaluation, submission.paper
    board = f"{evaluation.dataset}/{evaluation.norm}"
    seed, size = submission.facts.get("seed", 0), submission.facts.get("batch_size", 250)
    eps = eps_text(evaluation.eps, evaluation.norm)
    code = ""
    if submission.exported is not None and submission.exported.code:
        file = submission.exported.code_file
        code = f"| `architectures/{file}` | its architecture, for `model_zoo/architectures` |\n"
    preprocessing = ', preprocessing="Res256Crop224"' if evaluation.dataset == "imagenet" else ""
    return f"""\
# {paper.id}

A submission to RobustBench, {evaluation.dataset} {evaluation.norm}, eps {eps}: clean \
{figures.clean:.2%}, AutoAttack {figures.autoattack:.2%}.

| file | what it is |
|---|---|
| `new-model.md` | the issue "New Model(s)", filled in |
| `model_info/{board}/{paper.id}.json` | the leaderboard's entry |
| `model_zoo_entry.py` | the entry of `robustbench/model_zoo/{evaluation.dataset}.py` |
{code}| `models/{board}/{paper.id}.pt` | the weights that RobustBench loads |
| `weights.safetensors` | the same |
| `adversarial.pt` | AutoAttack's images, {evaluation.n:,} in the test set's order |
| `autoattack.log` | AutoAttack's figures, in the format of its log |
| `evaluation.json` | everything that was measured, image by image |
| `run.json` | how it was trained |

## What to do

1. Judge it once more, by RobustBench itself (here, with `robustlabels[robustbench]`):

   ```python
   from robustlabels.evaluation.robustbench import benchmark, load_model
   from robustlabels.models.exporting import enter

   enter("model_zoo_entry.py")
   model = load_model("{paper.id}", "models", "{evaluation.dataset}", "{evaluation.norm}")
   benchmark(model, {evaluation.n}, "{evaluation.dataset}", "{evaluation.norm}", eps="{eps}", \
data_dir="data",
             batch_size={size}, seed={seed}{preprocessing})
   ```

2. Put `models/{board}/{paper.id}.pt` where it can be fetched; its Google Drive id belongs into
   `model_zoo_entry.py`, its URL and the code's into `new-model.md`.
3. Open the issue "New Model(s)" with the text of `new-model.md`:
   {REPOSITORY}/issues/new?template=new-model.md
4. Attach `model_info` and `model_zoo_entry.py`, or open a pull request with them. Offer
   `adversarial.pt` and `autoattack.log` for checking.
"""


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"
