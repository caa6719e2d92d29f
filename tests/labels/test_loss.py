"""LabelLoss, soft_cross_entropy and kl_divergence."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
import torch.nn.functional as F

from robustlabels.labels import (
    AdversarialLabelling,
    AdversarialLabelSmoothing,
    AnnealingRectification,
    BoltzmannLabelSmoothing,
    LabelLoss,
    LabelSmoothing,
    MixUp,
    OneHot,
    SecondBestLabelSmoothing,
    StandardLabelSmoothing,
    VirtualSmoothing,
    kl_divergence,
    soft_cross_entropy,
)

REDUCTIONS = ["mean", "sum", "none"]


def batch(n: int = 6, k: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, k, generator=g, dtype=torch.float64) * 2, torch.arange(n) % k


def sls_target(y: torch.Tensor, k: int, alpha: float) -> torch.Tensor:
    q = torch.full((len(y), k), alpha / (k - 1), dtype=torch.float64)
    q[torch.arange(len(y)), y] = 1 - alpha
    return q


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_is_torchs_cross_entropy_with_the_soft_target(reduction: str) -> None:
    """A criterion that differs from torch's would not be a drop-in."""
    z, y = batch()
    loss = LabelLoss(StandardLabelSmoothing(4, 0.3), reduction)(z, y)
    expected = F.cross_entropy(z, sls_target(y, 4, 0.3), reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_ls_is_torchs_own_label_smoothing(reduction: str) -> None:
    """torch has ls built in: an independent implementation to agree with."""
    z, y = batch()
    loss = LabelLoss(LabelSmoothing(4, 0.3), reduction)(z, y)
    expected = F.cross_entropy(z, y, label_smoothing=0.3, reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_soft_cross_entropy_takes_indices(reduction: str) -> None:
    """Attacks pass hard labels through the same function."""
    z, y = batch()
    expected = F.cross_entropy(z, y, reduction=reduction)
    torch.testing.assert_close(soft_cross_entropy(z, y, reduction), expected)


def test_gradient_is_softmax_minus_label_over_n() -> None:
    """The label is a constant. bls's depends on the logits: were it not detached, the gradient
    would have a second term, which the finite differences of the whole loss show to be large."""
    z, y = batch()
    scheme = BoltzmannLabelSmoothing(4, 0.4, 1.0)
    criterion = LabelLoss(scheme)
    z.requires_grad_()
    criterion(z, y).backward()
    q = scheme.labels(y, z)
    assert z.grad is not None
    torch.testing.assert_close(z.grad, (z.detach().softmax(1) - q) / len(y), rtol=1e-10, atol=1e-14)

    frozen, whole = torch.empty_like(q), torch.empty_like(q)
    h = 1e-6
    with torch.no_grad():
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                step = torch.zeros_like(z)
                step[i, j] = h
                up, down = z + step, z - step
                ce = F.cross_entropy(up, q) - F.cross_entropy(down, q)
                frozen[i, j] = ce / (2 * h)
                whole[i, j] = (criterion(up, y) - criterion(down, y)) / (2 * h)
    torch.testing.assert_close(z.grad, frozen, rtol=0, atol=1e-8)
    assert (z.grad - whole).abs().max() > 1e-3


@pytest.mark.parametrize(
    "scheme",
    [
        OneHot(3),
        LabelSmoothing(3),
        StandardLabelSmoothing(3),
        AdversarialLabelSmoothing(3),
        BoltzmannLabelSmoothing(3),
        SecondBestLabelSmoothing(3),
        VirtualSmoothing(3, inner=AdversarialLabelSmoothing(3)),
        AdversarialLabelling(3),
        MixUp(3),
        VirtualSmoothing(3, alpha=0.2, inner=MixUp(3)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_drops_into_a_plain_torch_loop(scheme) -> None:
    """Promise 3: the same scheme object is a loss in anybody's loop."""
    g = torch.Generator().manual_seed(1)
    y = torch.arange(90) % 3
    centres = torch.tensor([[0.1, 0.1], [0.9, 0.1], [0.5, 0.9]])
    x = centres[y] + 0.08 * torch.randn(90, 2, generator=g)
    torch.manual_seed(0)
    model = torch.nn.Linear(2, scheme.num_outputs)
    before = (model(x)[:, :3].argmax(1) == y).float().mean().item()
    criterion = LabelLoss(scheme)
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=1.0)
    for _ in range(120):
        moved, mix = scheme.perturb(x, y, g)
        optimizer.zero_grad()
        criterion(model(moved), y, mix=mix).backward()
        optimizer.step()
    after = (model(x)[:, :3].argmax(1) == y).float().mean().item()
    assert before < 0.7
    assert after > 0.95


def test_passes_the_teacher_and_progress_on() -> None:
    """Without them every teacher scheme would be stuck at the end of its schedule."""
    z, _ = batch(1, 3)
    t = 2.5 * torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    loss = LabelLoss(AnnealingRectification(3))(
        z, torch.tensor([1]), teacher_logits=t, progress=0.0
    )
    q = torch.tensor([[0.25, 0.65, 0.1]], dtype=torch.float64)  # by hand: see test_teachers.py
    torch.testing.assert_close(loss, F.cross_entropy(z, q))


def test_teacher_gets_no_gradient() -> None:
    """A teacher that still has a graph must not be trained through the label."""
    z, y = batch(4, 3)
    t = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    z.requires_grad_()
    LabelLoss(AnnealingRectification(3))(z, y, teacher_logits=t).backward()
    assert t.grad is None
    assert z.grad is not None


class Leaky:
    """A third party's scheme that forgot to detach, with a parameter of its own."""

    num_classes = num_outputs = 4
    needs = frozenset({"logits"})

    def __init__(self) -> None:
        self.sharpness = torch.ones(1, dtype=torch.float64, requires_grad=True)

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return (logits * self.sharpness).softmax(1)


def test_a_leaky_scheme_is_detached() -> None:
    """Its label is the model's own softmax: detached the gradient is 0, attached it is not, and
    the model would learn to be sure of anything."""
    z, y = batch()
    z.requires_grad_()
    leaky = Leaky()
    LabelLoss(leaky)(z, y).backward()
    assert z.grad is not None
    assert z.grad.abs().max() < 1e-15
    assert leaky.sharpness.grad is None


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_kl_is_torchs_batchmean(reduction: str) -> None:
    """recipes: KL by batchmean; the elementwise mean is K times smaller, and the arguments'
    order decides which divergence it is."""
    p, _ = batch()
    q = p.flip(0) * 0.7
    torchs = {"mean": "batchmean"}.get(reduction, reduction)
    expected = F.kl_div(p.new_tensor(q.log_softmax(1).tolist()), p.softmax(1), reduction=torchs)
    if reduction == "none":
        expected = expected.sum(1)
    torch.testing.assert_close(kl_divergence(p, q, reduction), expected)
    assert not torch.allclose(kl_divergence(p, q), kl_divergence(q, p))


def test_kl_of_itself_is_0_and_stays_finite_at_extremes() -> None:
    """log 0 must not leak through 0 * log 0."""
    p = torch.tensor([[200.0, -200.0, 0.0]])
    assert kl_divergence(p, p).item() == 0
    # All of p's mass is where log q = -400.
    assert kl_divergence(p, -p).item() == pytest.approx(400.0)


def test_kl_trains_both_sides() -> None:
    """TRADES does not detach the natural target."""
    p, _ = batch()
    q = p.flip(0)
    p.requires_grad_()
    q.requires_grad_()
    kl_divergence(p, q).backward()
    assert p.grad is not None
    assert q.grad is not None
    assert p.grad.abs().max() > 0
    assert q.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    """A log-softmax over 1000 classes in half precision loses the small labels."""
    g = torch.Generator().manual_seed(0)
    z = (torch.randn(8, 1000, generator=g) * 8).to(dtype)
    y = torch.arange(8)
    criterion = LabelLoss(AdversarialLabelSmoothing(1000))
    loss = criterion(z, y)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, criterion(z.double(), y).float(), rtol=1e-6, atol=0)
    kl = kl_divergence(z, z.flip(0))
    assert kl.dtype == torch.float32
    torch.testing.assert_close(kl, kl_divergence(z.double(), z.double().flip(0)).float())


def test_autocast_keeps_float32() -> None:
    """Under autocast the model's logits arrive in bfloat16: the loss must not stay there."""
    layer = torch.nn.Linear(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        z = layer(torch.randn(5, 4))
        loss = LabelLoss(StandardLabelSmoothing(3))(z, torch.tensor([0, 1, 2, 0, 1]))
    assert z.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    loss.backward()
    assert layer.weight.grad is not None
    expected = F.cross_entropy(
        z.detach().double(), sls_target(torch.tensor([0, 1, 2, 0, 1]), 3, 0.1)
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_an_empty_batch_has_loss_0_and_no_nan_gradient() -> None:
    """0 / 0: torch's own mean gives NaN, which would poison the weights."""
    layer = torch.nn.Linear(2, 3)
    y = torch.empty(0, dtype=torch.int64)
    loss = LabelLoss(OneHot(3))(layer(torch.empty(0, 2)), y)
    loss.backward()
    assert loss.item() == 0
    assert layer.weight.grad is not None
    assert torch.all(layer.weight.grad == 0)
    assert LabelLoss(OneHot(3), "none")(torch.empty(0, 3), y).shape == (0,)


@pytest.mark.parametrize("bad", ["avg", "batchmean", ""])
def test_refuses_unknown_reductions(bad: str) -> None:
    """torch's kl_div knows batchmean: a user may try it here; "mean" it is."""
    z, y = batch()
    with pytest.raises(ValueError, match=r"reduction must be mean, sum or none"):
        LabelLoss(OneHot(4), bad)
    with pytest.raises(ValueError, match=r"reduction must be mean, sum or none"):
        soft_cross_entropy(z, y, bad)
    with pytest.raises(ValueError, match=r"reduction must be mean, sum or none"):
        kl_divergence(z, z, bad)


class WrongWidth:
    """A third party's scheme with a bug that torch's broadcasting would hide."""

    num_classes = 4
    num_outputs = 4
    needs = frozenset()

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def labels(self, y, logits=None, teacher_logits=None, progress=1.0):
        return torch.full(self.shape, 0.25)


@pytest.mark.parametrize("shape", [(1, 4), (6, 1)])
def test_refuses_labels_that_would_broadcast(shape: tuple[int, int]) -> None:
    """(1, 4) against (6, 4) broadcasts: every sample would be trained on the first one's label."""
    z, y = batch()
    with pytest.raises(ValueError, match=r"WrongWidth.*return a tensor \(6, 4\), not \(\d, \d\)"):
        LabelLoss(WrongWidth(shape))(z, y)


def test_refuses_logits_of_another_width() -> None:
    """vs with a model that was not widened: say so instead of a shape error deep in torch."""
    z, y = batch()
    with pytest.raises(ValueError, match=r"logits must have shape \(6, 6\), not \(6, 4\)"):
        LabelLoss(VirtualSmoothing(4, virtual_classes=2))(z, y)


def test_is_a_module_without_parameters_that_pickles() -> None:
    """Loops move criteria to devices, deep-copy them and send them to workers."""
    criterion = LabelLoss(VirtualSmoothing(4, virtual_classes=2))
    assert list(criterion.parameters()) == []
    assert criterion.state_dict() == {}
    copy = pickle.loads(pickle.dumps(criterion.to(torch.float64)))
    z = torch.zeros(2, 6)
    assert torch.equal(copy(z, torch.tensor([0, 1])), criterion(z, torch.tensor([0, 1])))


def test_a_class_of_probability_0_has_no_part_in_the_losses() -> None:
    """Logits of -inf rule a class out; 0 * -inf must not make a finite loss or gradient NaN."""
    z = torch.tensor([[1.0, 0.5, -math.inf]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.9, 0.1, 0.0]], dtype=torch.float64)
    p = z[:, :2].softmax(dim=1)
    loss = soft_cross_entropy(z, q)
    torch.testing.assert_close(loss, -(q[:, :2] * p.log()).sum())
    (gradient,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(gradient, torch.cat([p - q[:, :2], q[:, 2:]], dim=1))

    other = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64)
    divergence = kl_divergence(z, other)
    torch.testing.assert_close(divergence, (p * (p / 0.5).log()).sum())
    assert torch.autograd.grad(divergence, z)[0].isfinite().all()
    assert torch.isposinf(soft_cross_entropy(z, torch.full_like(q, 1 / 3)))

    scheme = LabelLoss(OneHot(3))
    torch.testing.assert_close(scheme(z, torch.tensor([1])), -p[0, 1].log())


def test_repr_shows_the_scheme() -> None:
    """print(criterion) showed LabelLoss() for every scheme."""
    shown = repr(LabelLoss(LabelSmoothing(4, 0.3)))
    assert "LabelSmoothing(num_classes=4, alpha=0.3)" in shown


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_dtype(dtype: torch.dtype) -> None:
    """Data sets often store labels as uint8 or int32."""
    z, y = batch()
    criterion = LabelLoss(StandardLabelSmoothing(4, 0.3))
    assert torch.equal(criterion(z, y.to(dtype)), criterion(z, y))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ignored", [-100, 255])
def test_dense_outputs_and_ignored_targets(reduction: str, ignored: int) -> None:
    """Segmentation (N, C, H, W) with unlabelled pixels, as torch's own criterion takes it."""
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 4, 3, 5, generator=g, dtype=torch.float64, requires_grad=True)
    y = torch.randint(4, (2, 3, 5), generator=g)
    y[0, 1] = ignored
    ours = LabelLoss(LabelSmoothing(4, 0.2), reduction, ignore_index=ignored)(z, y)
    theirs = F.cross_entropy(z, y, reduction=reduction, ignore_index=ignored, label_smoothing=0.2)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    ours_grad = torch.autograd.grad(ours.sum(), z)[0]
    torch.testing.assert_close(
        ours_grad, torch.autograd.grad(theirs.sum(), z)[0], rtol=1e-12, atol=1e-14
    )


LINEAR = [
    OneHot(4),
    LabelSmoothing(4, 0.3),
    StandardLabelSmoothing(4, 0.3),
    AdversarialLabelSmoothing(4, 0.3),
    AdversarialLabelling(4),
    VirtualSmoothing(4, virtual_classes=2, inner=LabelSmoothing(4)),
]


@pytest.mark.parametrize("scheme", LINEAR, ids=lambda s: type(s).__name__)
def test_soft_targets_are_the_mixture_of_losses(scheme: LabelSmoothing) -> None:
    """MixUp and CutMix of timm and torchvision return (N, K): lam e_a + (1 - lam) e_b."""
    _, a = batch()
    b = a.flip(0)
    g = torch.Generator().manual_seed(1)
    z = torch.randn(6, scheme.num_outputs, generator=g, dtype=torch.float64)
    soft = 0.3 * F.one_hot(a, 4).double() + 0.7 * F.one_hot(b, 4).double()
    criterion = LabelLoss(scheme)
    expected = 0.3 * criterion(z, a) + 0.7 * criterion(z, b)
    torch.testing.assert_close(criterion(z, soft), expected, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="sum to 1"):
        criterion(z, soft * 2)


@pytest.mark.parametrize(
    "scheme",
    [
        BoltzmannLabelSmoothing(4),
        SecondBestLabelSmoothing(4),
        AnnealingRectification(4),
        VirtualSmoothing(4, inner=SecondBestLabelSmoothing(4)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_soft_targets_of_a_scheme_that_is_not_linear(scheme: LabelSmoothing) -> None:
    """The old message recommended y.long(), which turns soft targets into zeros."""
    z = torch.zeros(6, scheme.num_outputs)
    with pytest.raises(ValueError, match=r"not linear in y.*class indices"):
        LabelLoss(scheme)(z, torch.full((6, 4), 0.25), teacher_logits=torch.zeros(6, 4))


@pytest.mark.parametrize(
    "scheme", [VirtualSmoothing(4), BoltzmannLabelSmoothing(4)], ids=lambda s: type(s).__name__
)
def test_compiles_to_a_full_graph(scheme: LabelSmoothing) -> None:
    """A check of values would break the graph, and make a GPU wait in every step."""
    z = torch.randn(6, scheme.num_outputs, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % 4
    criterion = LabelLoss(scheme)
    compiled = torch.compile(criterion, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(z, y), criterion(z, y))
