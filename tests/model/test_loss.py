import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.operators import Operators
from trainer.config import Model
from trainer.model.decoder import Transformer
from trainer.model.initialize import initialize
from trainer.model.loss import IGNORED, add_product, logit_losses, row_losses
from trainer.model.sizes import chunk_tokens

BATCH, TIME, WIDTH, VOCABULARY = 3, 10, 8, 37


def inputs(*, masked: bool) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    torch.manual_seed(0)
    hidden = torch.randn(BATCH, TIME, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (BATCH, TIME))
    if masked:
        targets[0, 2:5] = targets[2] = IGNORED
    return hidden, targets, nn.Linear(WIDTH, VOCABULARY, bias=False)


def plain(hidden: torch.Tensor, targets: torch.Tensor, head: nn.Module, z_loss: float) -> torch.Tensor:
    logits = head(hidden)
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    z = logits.logsumexp(-1) ** 2
    return (losses + z_loss * z.where(targets != IGNORED, 0.0)).sum(1)


def hooked(head: nn.Linear) -> nn.Linear:
    """The head as ZeRO-3 has it: something comes before it, to bring its weight."""
    head.register_forward_pre_hook(lambda module, given: None)
    return head


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [1, 7, 10, 29, 30, 1000])
@pytest.mark.parametrize("prepare", [hooked, lambda head: head], ids=["hooked", "plain"])
def test_chunked_loss_and_gradients_equal_plain_cross_entropy(prepare, chunk, z_loss, masked):
    hidden, targets, head = inputs(masked=masked)
    head = prepare(head)
    weights = torch.tensor([3.0, 3.0, 3.0])
    if prepare is hooked or chunk >= targets.numel():
        weights = torch.tensor([1.0, 2.0, 3.0])  # so that a row's gradient can't stand in another's place
    results = []
    for compute in (lambda: row_losses(hidden, targets, head, chunk=chunk, z_loss=z_loss), None):
        losses = compute() if compute else plain(hidden, targets, head, z_loss)
        gradients = torch.autograd.grad((losses * weights).sum(), [hidden, head.weight])
        results.append((losses, *gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_rows_that_weigh_differently_are_refused_where_gradients_are_summed_already():
    hidden, targets, head = inputs(masked=False)
    losses = row_losses(hidden, targets, head, chunk=7)
    with pytest.raises(RuntimeError, match="must weigh the same"):
        (losses * torch.tensor([1.0, 2.0, 3.0])).sum().backward()


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16], ids=["autocast", "bf16 weights"])
def test_bf16_loss_and_gradients_are_near_fp32_s(weight_dtype):
    hidden, targets, head = inputs(masked=True)
    expected = plain(hidden, targets, head, 0.01)
    wanted = torch.autograd.grad(expected.sum(), [hidden, head.weight])
    head = head.to(weight_dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=weight_dtype == torch.float32):
        losses = row_losses(hidden.bfloat16(), targets, head, chunk=7, z_loss=0.01)
    found = torch.autograd.grad(losses.sum(), [hidden, head.weight])
    assert (losses.dtype, found[1].dtype) == (torch.float32, weight_dtype)
    torch.testing.assert_close(losses, expected, rtol=0.01, atol=0.1)
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours.float() - theirs).abs().max() < 0.02 * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_added_up_in_the_precision_of_their_sum(dtype):
    torch.manual_seed(0)
    total, left, right = torch.randn(5, 4), torch.randn(5, 6).to(dtype), torch.randn(6, 4).to(dtype)
    expected = total.double() + left.double() @ right.double()
    add_product(total, left, right)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total.double(), expected, rtol=1e-5 if dtype == torch.float32 else 0.02, atol=0.01)


def test_on_an_accelerator_a_bf16_product_is_added_in_one_operation_that_makes_no_tensor():
    """Seen on the meta device, which knows shapes alone: no GPU is needed."""
    total = torch.empty(5, 4, device="meta")
    left, right = (torch.empty(shape, device="meta", dtype=torch.bfloat16) for shape in ((5, 6), (6, 4)))
    with Operators() as seen:
        add_product(total, left, right)
    assert seen.names == ["aten.addmm.dtype_out"]
    assert total.shape == (5, 4)


def test_chunks_follow_the_device_and_the_vocabulary():
    assert chunk_tokens(0, 50_304, cuda=False) == 2048
    assert [chunk_tokens(0, size, cuda=True) for size in (2048, 50_304, 128_256, 400_000)] == [
        8192,
        8192,
        4096,
        2048,
    ]
    assert chunk_tokens(100, 128_256, cuda=True) == 100


def test_compiled_loss_equals_eager():
    hidden, targets, head = inputs(masked=True)
    results = []
    for measure in (logit_losses, torch.compile(logit_losses, fullgraph=True)):
        losses = row_losses(hidden, targets, head, chunk=8, z_loss=0.01, measure=measure)
        results.append((losses, *torch.autograd.grad(losses.sum(), [hidden, head.weight])))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_masked_row_adds_nothing():
    hidden, targets, head = inputs(masked=True)
    losses = row_losses(hidden, targets, head, chunk=4, z_loss=0.1)
    assert losses[2] == 0
    (gradient,) = torch.autograd.grad(losses.sum(), hidden)
    assert gradient[2].abs().max() == 0


@pytest.mark.parametrize("prepare", [hooked, lambda head: head], ids=["hooked", "plain"])
def test_no_tensor_kept_for_backward_holds_all_logits(prepare):
    hidden, targets, head = inputs(masked=False)
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1:] == (VOCABULARY,) and tensor.data_ptr() != head.weight.data_ptr():
            kept.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = row_losses(hidden, targets, prepare(head), chunk=7, z_loss=0.1)
    rows = [tensor.numel() // VOCABULARY for tensor in (reference() for reference in kept) if tensor is not None]
    # At most the last chunk's 2 tokens, which backward starts from: their logits and log-softmax.
    assert set(rows) == ({BATCH * TIME % 7} if prepare is hooked else set())
    assert len(rows) <= 3
    losses.sum().backward()


def test_a_plain_head_multiplies_each_chunk_once():
    hidden, targets, head = inputs(masked=False)
    with FlopCounterMode(display=False) as counter:
        row_losses(hidden, targets, head, chunk=8).sum().backward()
    product = 2 * BATCH * TIME * WIDTH * VOCABULARY
    assert counter.get_total_flops() == 2 * product  # logits and the states' gradient; addmm_ isn't counted


@pytest.mark.parametrize("grad", [True, False])
def test_head_sees_a_chunk_at_a_time_forward_and_backward(grad):
    hidden, targets, head = inputs(masked=False)
    calls = []
    head.register_forward_hook(lambda module, args, output: calls.append(output.shape[0]))
    with torch.set_grad_enabled(grad):
        losses = row_losses(hidden, targets, head, chunk=8)
    assert calls == [8, 8, 8, 6]
    if grad:
        losses.sum().backward()
        assert calls[4:] == [8, 8, 8]  # computed again, one by one


def test_z_loss_counts_in_training_only():
    config = Model(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, z_loss=0.1)
    model = Transformer(config)
    initialize(model, seed=1, model=config)
    tokens = torch.arange(20).view(2, 10)
    trained = model.train()(tokens, targets=tokens)
    evaluated = model.eval()(tokens, targets=tokens)
    z = model(tokens).logsumexp(-1).square().sum(1)
    torch.testing.assert_close(trained, evaluated + 0.1 * z)
