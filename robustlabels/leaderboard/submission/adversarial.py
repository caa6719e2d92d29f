"""The adversarial images: they lie in the ball, and the model's verdicts on them are those told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustlabels.leaderboard.fairness import eps_text
from robustlabels.leaderboard.submission.parts import Figures, Finding, Progress, Submission

TOLERANCE = 1e-5
"""Of the ball, relative to eps where that is above 1: float32's, as in an evaluation."""
UNDECIDED = 1e-4
"""A margin of the two greatest logits, relative to the greatest, that another batch may turn."""
UNDECIDED_ELSEWHERE = 1e-2
"""The same on another kind of device: a GPU may round inputs of convolutions to 10 bits (TF32)."""
AGAIN = "evaluate again, robustlabels evaluate writes them beside its figures: --out FILE"


@dataclass
class _Seen:
    """What was seen of all batches."""

    farthest: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    right: list[Tensor] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)
    decided: list[Tensor] = field(default_factory=list)
    undecided: float = UNDECIDED


def adversarial_images(
    submission: Submission, figures: Figures, progress: Progress | None = None
) -> list[Finding]:
    """Judge the test images and the adversarial ones by what RobustBench loads.

    Verdicts must be the evaluation's, image by image. Where one is another and the two greatest
    logits are nearly equal, another device or batch size may be the reason: a warning.
    """
    x_adv, images = submission.adversarial, submission.images
    model = submission.model if submission.exported is None else submission.exported.model
    if x_adv is None or images is None or model is None:
        return []
    evaluation = submission.judged.evaluation
    if not x_adv.is_floating_point() or x_adv.dim() != 4 or len(x_adv) != evaluation.n:
        value = f"{x_adv.dtype} {tuple(x_adv.shape)}"
        return [Finding("adversarial", value, f"float ({evaluation.n}, C, H, W): {AGAIN}")]
    seen, start = _Seen(), 0
    there = str(submission.facts.get("device", "cpu")).partition(":")[0]
    if there != next((p.device.type for p in model.parameters()), there):
        seen.undecided = UNDECIDED_ELSEWHERE
    norm = {"Linf": math.inf, "L2": 2.0}.get(evaluation.norm, 1.0)
    for x, y in images():
        part = x_adv[start : start + len(x)].float()
        start += len(x)
        if part.shape != x.shape:
            value = f"images {tuple(part.shape)}, the test set's are {tuple(x.shape)}"
            return [Finding("adversarial", value, AGAIN)]
        _look(model, x, y, part, norm, seen)
        if progress is not None:
            progress(start / evaluation.n, "adversarial images")
    if start != evaluation.n:
        value = f"{start:,} test images, {evaluation.n:,} adversarial ones"
        return [Finding("adversarial", value, "give the data that was evaluated: --data-root")]
    return [*_bounds(seen, evaluation.eps, evaluation.norm), *_verdicts(seen, submission, figures)]


def _look(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: float, seen: _Seen) -> None:
    device = next((p.device for p in model.parameters()), x.device)
    distance = (x_adv.double() - x.double()).flatten(1).norm(p=norm, dim=1).max()
    # NaN would pass every "greater than".
    seen.farthest = max(seen.farthest, float(distance.nan_to_num(nan=math.inf)))
    low, high = (float(v.nan_to_num(nan=math.inf)) for v in x_adv.aminmax())
    seen.low, seen.high = min(seen.low, low), max(seen.high, high)
    with torch.no_grad():
        clean, attacked = model(x.to(device)).cpu(), model(x_adv.to(device)).cpu()
    # argmax takes NaN for the maximum; such an image counts as misclassified.
    right, held = ((z.argmax(dim=1) == y) & ~z.isnan().any(dim=1) for z in (clean, attacked))
    seen.right.append(right)
    seen.held.append(right & held)
    for z in (clean, attacked):
        top = z.topk(2, dim=1).values
        sure = (top[:, 0] - top[:, 1]) > seen.undecided * z.abs().amax(dim=1)
        seen.decided.append(sure)


def _bounds(seen: _Seen, eps: float, norm: str) -> list[Finding]:
    found = []
    if not seen.farthest <= eps + TOLERANCE * max(1.0, eps):
        value = f"{seen.farthest:.6g} from the test images in {norm}, not {eps_text(eps, norm)}"
        found.append(Finding("adversarial", value, AGAIN))
    if not (seen.low >= -TOLERANCE and seen.high <= 1 + TOLERANCE):
        value = f"in [{seen.low:.4g}, {seen.high:.4g}], not in [0, 1]"
        found.append(Finding("adversarial", value, AGAIN))
    return found


def _verdicts(seen: _Seen, submission: Submission, figures: Figures) -> list[Finding]:
    found = []
    right, held = torch.cat(seen.right), torch.cat(seen.held)
    clean_sure, sure = torch.cat(seen.decided[::2]), torch.cat(seen.decided[1::2])
    reported = round(figures.clean * len(right))
    if int(right.sum()) != reported:
        value = f"{int(right.sum()):,} of {len(right):,} right, and {reported:,} in the evaluation"
        undecided = int((~clean_sure).sum())
        found.append(
            Finding(
                "clean accuracy",
                value,
                "evaluate these weights on these data again"
                + (f" ({undecided} images are undecided)" if undecided else ""),
                fails=abs(int(right.sum()) - reported) > undecided,
            )
        )
    told = submission.facts.get("verdicts", {}).get(figures.name, ())
    if len(told) != len(held):  # which is a failure of its own
        return found
    other = torch.tensor(told, dtype=torch.bool) != held
    if bool(other.any()):
        surely = int((other & sure & clean_sure).sum())
        value = f"{int(other.sum()):,} verdicts are not the evaluation's" + (
            "" if surely else ", all with nearly equal logits"
        )
        remedy = f"give the images of this evaluation, or {AGAIN}"
        if not surely:
            remedy = "another device or batch size turns them: judge on the evaluation's"
        found.append(Finding("adversarial", value, remedy, fails=surely > 0))
    return found
