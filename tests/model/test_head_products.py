"""The head's products in float8: those of what float8 leaves of the numbers, and near exact ones."""

import pytest
import torch
from torch import nn

from trainer.model.head_products import BACKWARD, FORWARD, Float8Products, PlainProducts, quantize_tensor
from trainer.model.loss import IGNORED, row_losses

TOKENS, WIDTH, VOCABULARY = 40, 64, 48
BF16 = 2**-8  # relative rounding of a result


def float8(weight, dtype):
    return Float8Products(weight, dtype, quantize_tensor)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def restored(tensor, kind):
    """What float8 leaves of a tensor, in fp64."""
    numbers, scale = quantize_tensor(tensor, kind)
    return numbers.double() * scale.double()


def test_products_are_those_of_what_float8_leaves_of_the_numbers():
    weight, states, slope = draw(VOCABULARY, WIDTH), draw(TOKENS, WIDTH, seed=1).bfloat16(), draw(TOKENS, VOCABULARY)
    products, room = float8(weight, torch.bfloat16), torch.empty(TOKENS, WIDTH, dtype=torch.bfloat16)
    logits = products.logits(states)
    products.grad_hidden(slope.bfloat16(), room)
    matrix = restored(weight, FORWARD)
    expected = (restored(states, FORWARD) @ matrix.T, restored(slope.bfloat16(), BACKWARD) @ matrix)
    for found, wanted in zip((logits, room), expected, strict=True):
        assert found.dtype == torch.bfloat16
        assert ((found - wanted).abs() <= BF16 * wanted.abs() + 1e-5 * wanted.abs().max()).all()


@pytest.mark.parametrize(("kind", "rounding"), [(FORWARD, 2**-4), (BACKWARD, 2**-3)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_numbers_keep_their_size_to_half_a_step(kind, rounding, size):
    tensor = size * draw(1000)
    largest, smallest = tensor.abs().max(), size / 500  # above what float8 has fewer digits of
    error = (restored(tensor, kind) - tensor).abs()
    assert (error <= rounding * tensor.abs().clamp(min=smallest)).all()
    assert restored(tensor, kind).abs().max() == pytest.approx(largest.item(), rel=1e-6)


def test_zeros_stay_zeros():
    assert restored(torch.zeros(4, 4), BACKWARD).abs().max() == 0


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("chunk", [16, 1000], ids=["chunks", "one-chunk"])
@pytest.mark.parametrize("z_loss", [0.0, 1e-3])
def test_losses_and_gradients_of_a_float8_head_are_near_exact_ones(weights, chunk, z_loss):
    targets = torch.randint(VOCABULARY, (2, TOKENS), generator=torch.Generator().manual_seed(3))
    targets[0, 16:32] = IGNORED  # a whole chunk
    found = {}
    for products in (PlainProducts, float8):
        hidden = draw(2, TOKENS, WIDTH, seed=1).requires_grad_()
        head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        head.weight.data = draw(VOCABULARY, WIDTH, seed=2) / 8
        if products is float8 and weights == "bf16":
            head = head.bfloat16()
        states = hidden if products is PlainProducts else hidden.bfloat16()
        losses = row_losses(states, targets, head, chunk=chunk, z_loss=z_loss, products=products)
        losses.sum().backward()
        found[products] = losses.detach(), hidden.grad, head.weight.grad.float()
    exact, rounded = found[PlainProducts], found[float8]
    torch.testing.assert_close(rounded[0], exact[0], rtol=0.01, atol=0)
    for ours, theirs in zip(rounded[1:], exact[1:], strict=True):
        assert not torch.equal(ours, theirs)
        assert (ours - theirs).norm() < 0.06 * theirs.norm()
    assert rounded[1][0, 16:32].abs().max() == 0


def test_what_is_not_trained_has_the_head_as_it_is():
    hidden, head = draw(2, 10, WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
    targets = torch.zeros(2, 10, dtype=torch.int64)
    with torch.no_grad():
        plain, judged = (row_losses(hidden, targets, head, chunk=99, products=p) for p in (PlainProducts, float8))
    assert torch.equal(plain, judged)
