"""T2T-ViT-14 and T2T-ViT-24: sizes, the Performer's approximation, where tokens come from."""

import math

import pytest
import torch
from torch import nn

from robustlabels.errors import BadValueError
from robustlabels.models.t2t_vit import (
    Performer,
    T2TViT,
    TokensToToken,
    sinusoids,
    t2t_vit_14,
    t2t_vit_24,
)


def small(**params):
    torch.manual_seed(0)
    return T2TViT(3, 128, 5, (1, 32, 48), **params)


@pytest.mark.parametrize(
    ("build", "weights", "published"),
    [(t2t_vit_14, 21_465_806, 21.5), (t2t_vit_24, 64_000_974, 64.1)],
)
def test_number_of_weights(build, weights, published):
    """The paper's counts, which have the random features and the positions among them."""
    with torch.device("meta"):
        model = build(1000, (3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) == weights
    fixed = {name: tuple(b.shape) for name, b in model.named_buffers()}
    width = model.head.in_features
    assert fixed == {
        "tokens_to_token.attention1.w": (32, 64),
        "tokens_to_token.attention2.w": (32, 64),
        "pos_embed": (1, 14 * 14 + 1, width),
    }
    assert round((weights + sum(map(math.prod, fixed.values()))) / 1e6, 1) == published


def test_performer_approximates_softmax_attention():
    """A wrong sign or scale in the features would be attention to something else.

    Measured in the distance between exact and uniform attention; queries of another scale are .7
    away, of the other sign 2.
    """
    torch.manual_seed(0)
    layer = Performer(3, width=16, features=20_000)
    q, k, v = torch.randn(3, 1, 6, 16) * 0.35
    exact = (q @ k.transpose(1, 2)).softmax(dim=-1) @ v
    found = layer.attention(q, k, v)
    mean = v.mean(dim=1, keepdim=True).expand_as(v)
    assert (found - exact).norm() < 0.25 * (mean - exact).norm()


def test_tokens_come_from_their_place():
    """Rows and columns that change places would go unnoticed on square images.

    Backwards through the splits, token i of a side sees the pixels 16 i - 14 to 16 i + 16.
    """
    layer = TokensToToken(1, 8)
    layer.attention1, layer.attention2 = nn.Linear(49, 64), nn.Linear(576, 64)  # nothing mixed
    x = torch.rand(1, 1, 48, 80, requires_grad=True)
    tokens = layer(x)
    assert tokens.shape == (1, 3 * 5, 8)
    (seen,) = torch.autograd.grad(tokens[0, 1 * 5 + 2].sum(), x)
    _, _, rows, columns = seen.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 32, 18, 48)


def test_positions():
    """Vaswani's formula, entry by entry."""
    table = sinusoids(7, 6)
    for p in range(7):
        for j in range(6):
            angle = p / 10_000 ** (2 * (j // 2) / 6)
            wanted = math.cos(angle) if j % 2 else math.sin(angle)
            assert table[p, j].item() == pytest.approx(wanted, abs=1e-6)


def test_the_random_features_are_saved():
    """Drawn anew, they would make another function of a checkpoint's weights."""
    model, x = small().eval(), torch.rand(2, 1, 32, 48)
    torch.manual_seed(1)
    twin = T2TViT(3, 128, 5, (1, 32, 48)).eval()
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        assert not torch.allclose(model(x), twin(x))
        twin.load_state_dict(model.state_dict())
        assert torch.equal(model(x), twin(x))


def test_an_image_is_judged_by_itself_and_has_a_gradient():
    """What attacks and RobustBench's rules ask of a model."""
    model, x = small().eval(), torch.rand(3, 1, 32, 48, requires_grad=True)
    logits = model(x)
    assert torch.allclose(logits[:1], model(x[:1]), atol=1e-5)
    (found,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert found.isfinite().all()
    assert (found.flatten(1).abs().amax(dim=1) > 0).all()


def test_dropout_and_drop_path():
    """A rate that isn't handed on would be a silent no."""
    model = small(dropout=0.5, drop_path=0.2)
    rates = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    assert rates.count(0.1) == 4  # the Performers'
    assert rates.count(0.5) >= 1 + 3 * 2
    paths = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert paths == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize(
    ("shape", "params", "word"),
    [
        ((1, 8, 8), {}, "16x16"),
        ((3, 32, 32), {"dropout": 1}, "dropout"),
        ((3, 32, 32), {"drop_path": -0.1}, "drop_path must be a number"),
    ],
)
def test_bad_values_are_named(shape, params, word):
    """One line for the user instead of a traceback from torch."""
    with pytest.raises(BadValueError, match=word):
        t2t_vit_14(10, shape, **params)
