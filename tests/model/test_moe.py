import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from trainer.config import Model
from trainer.engine.optimizers.build import decays
from trainer.model import moe
from trainer.model.attention import KeyValueCache
from trainer.model.decoder import Transformer
from trainer.model.initialize import initial_weight, initialize
from trainer.model.loss import IGNORED
from trainer.model.moe import Experts, choose_experts, keep_eager, measure_routing, penalties
from trainer.model.sizes import active_share

PRESETS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("moe_*.yaml"))


def small(**changes: object) -> Model:
    sizes = {"vocab_size": 131, "hidden_size": 64, "num_hidden_layers": 2, "qk_norm": True}
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    return Model(**{**sizes, **experts, **changes})


def built(config: Model) -> Transformer:
    model = Transformer(config)
    initialize(model, seed=1, model=config)
    return model


def some_tokens(batch: int = 2, time: int = 24) -> torch.Tensor:
    return torch.randint(131, (batch, time), generator=torch.Generator().manual_seed(5))


def gradients(model: Transformer) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    "changes",
    [{}, {"norm_topk_prob": False, "num_experts_per_tok": 3}, {"num_experts_per_tok": 1, "num_key_value_heads": 4}],
)
def test_logits_equal_hugging_face_with_copied_weights(changes):
    config = small(**changes)
    model = Transformer(config).eval()
    settings = Qwen3MoeConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.hidden_size // config.num_attention_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        num_experts=config.num_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        moe_intermediate_size=config.moe_intermediate_size,
        norm_topk_prob=config.norm_topk_prob,
    )
    theirs = Qwen3MoeForCausalLM(settings).eval()
    weights = dict(theirs.named_parameters())
    assert weights.keys() == dict(model.named_parameters()).keys()
    with torch.no_grad():
        for parameter in weights.values():
            parameter.normal_(0.0, 0.3)
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        tokens = some_tokens(time=200)
        difference = model(tokens) - theirs(tokens).logits
    assert difference.abs().max() < 1e-4


def plain_experts(experts: Experts, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Token by token, as the formula says: nothing sorted, nothing dropped."""
    rows = []
    for token, its, shares in zip(hidden, chosen, weights, strict=True):
        total = torch.zeros_like(token)
        for expert, share in zip(its, shares, strict=True):
            gate, up = (experts.gate_up_proj[expert] @ token).chunk(2)
            total = total + share * (experts.down_proj[expert] @ (torch.nn.functional.silu(gate) * up))
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("kernel", ["loop", "grouped"])
@pytest.mark.parametrize("everyone_to_one", [False, True])
def test_every_token_gets_all_of_its_experts(kernel, everyone_to_one, monkeypatch):
    """With the worst load too: a capacity would drop most of it. Forward and backward, in either kernel."""
    monkeypatch.setattr(moe, "groups", lambda rows: kernel == "grouped")
    torch.manual_seed(0)
    experts = Experts(small())
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(0.0, 0.2)
    hidden = torch.randn(30, 64, requires_grad=True)
    logits = torch.randn(30, 6)
    if everyone_to_one:
        logits[:, 3] += 50.0
        logits[:, 0] += 40.0
    weights, chosen = choose_experts(logits, 2, normalise=True)
    weights.requires_grad_()
    inputs = [hidden, weights, *experts.parameters()]
    up = torch.randn(30, 64)
    results = []
    for way in (experts, lambda *batch: plain_experts(experts, *batch)):
        output = way(hidden, chosen, weights)
        results.append((output.detach(), *torch.autograd.grad(output, inputs, up)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_grouped_kernel_and_loop_agree_in_bf16(monkeypatch):
    results = []
    for grouped in (False, True):
        monkeypatch.setattr(moe, "groups", lambda rows, grouped=grouped: grouped)
        model = built(small()).to(torch.bfloat16)
        losses = model(some_tokens(), targets=some_tokens())
        losses.sum().backward()
        results.append((losses.detach(), gradients(model)))
    torch.testing.assert_close(results[0], results[1], rtol=0.02, atol=1e-3)


def test_backward_keeps_parameters_and_no_views_of_experts():
    """Under ZeRO-3 a view would keep the gathered experts of every layer in memory until backward."""
    experts = Experts(small())
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_()
    storages = {parameter.untyped_storage().data_ptr() for parameter in experts.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        weights, chosen = choose_experts(torch.randn(9, 6), 2, normalise=True)
        experts(torch.randn(9, 64, requires_grad=True), chosen, weights)
    held = [tensor for tensor in kept if tensor.untyped_storage().data_ptr() in storages]
    assert len(held) == 2
    assert all(any(tensor is parameter for parameter in experts.parameters()) for tensor in held)


def test_balance_loss_is_one_when_all_is_even_and_e_when_one_gets_all():
    chosen = torch.arange(12).view(1, 6, 2) % 6  # each expert twice
    even = measure_routing(torch.zeros(1, 6, 6), chosen)
    torch.testing.assert_close(even.balance, torch.ones(1))
    torch.testing.assert_close(even.z, torch.tensor([6.0]).log().square())
    assert even.load.tolist() == [2] * 6
    logits = torch.zeros(1, 6, 6)
    logits[..., 4] = 100.0
    one = measure_routing(logits, torch.full((1, 6, 1), 4))
    torch.testing.assert_close(one.balance, torch.tensor([6.0]))
    assert one.load.tolist() == [0, 0, 0, 0, 6, 0]


def test_balance_loss_is_hugging_faces_over_top_k():
    from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

    logits = torch.randn(1, 40, 6, generator=torch.Generator().manual_seed(2))
    ours = measure_routing(logits, choose_experts(logits, 2, normalise=True)[1]).balance
    theirs = load_balancing_loss_func((logits[0],), num_experts=6, top_k=2)
    torch.testing.assert_close(ours[0], theirs / 2)


def test_z_loss_and_balance_loss_pull_the_router():
    config = small(router_aux_loss_coef=0.0, router_z_loss_coef=0.0)
    without = built(config)
    losses = {}
    for key in ("router_aux_loss_coef", "router_z_loss_coef"):
        model = built(replace(config, **{key: 1.0}))
        losses[key] = model(some_tokens(), targets=some_tokens())
        losses[key].sum().backward()
        plain = without(some_tokens(), targets=some_tokens())
        without.zero_grad()
        plain.sum().backward()
        assert (losses[key] > plain).all()
        assert not torch.equal(model.blocks[0].mlp.gate.weight.grad, without.blocks[0].mlp.gate.weight.grad)
        assert torch.equal(model.lm_head.weight.grad, without.lm_head.weight.grad)
        model.eval()
        assert torch.equal(model(some_tokens(), targets=some_tokens()), plain)  # in evaluation they don't count


def test_a_rows_loss_is_its_own_whatever_it_stands_beside():
    model, tokens = built(small(router_aux_loss_coef=1.0, router_z_loss_coef=0.1)), some_tokens(batch=5)
    together = model(tokens, targets=tokens)
    alone = torch.cat([model(row[None], targets=row[None]) for row in tokens])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_penalties_are_scaled_by_a_rows_targets():
    config = small(router_aux_loss_coef=0.5, router_z_loss_coef=0.25)
    routings = [measure_routing(torch.randn(3, 4, 6), torch.randint(6, (3, 4, 2))) for _ in range(2)]
    targets = torch.tensor([[1, 2, 3, 4], [1, IGNORED, 3, IGNORED], [IGNORED] * 4])
    balance = (routings[0].balance + routings[1].balance) / 2
    z = (routings[0].z + routings[1].z) / 2
    expected = (0.5 * balance + 0.25 * z) * torch.tensor([4, 2, 0])
    torch.testing.assert_close(penalties(routings, targets, config), expected)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_activation_checkpointing_changes_no_loss_no_gradient_and_no_tally(dropout):
    results = []
    for mode in ("none", "full"):
        model = built(small(dropout=dropout, router_aux_loss_coef=1.0, router_z_loss_coef=0.1))
        model.set_activation_checkpointing(mode)
        torch.manual_seed(3)
        loss = model(some_tokens(), targets=some_tokens()).sum()
        loss.backward()
        results.append((loss.detach(), gradients(model), *model.tally.take()))
    torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)
    assert results[0][2].sum(dim=1).tolist() == [2 * 24 * 2] * 2  # rows, tokens, experts each: all of them, once


def test_tally_sums_batches_and_begins_anew_once_taken():
    model = built(small())
    first, second = some_tokens(batch=1), some_tokens(batch=3)
    taken = []
    for batches in ([first, second], [first], [second]):
        for tokens in batches:
            model(tokens, targets=tokens)
        taken.append(model.tally.take())
    for both, one, other in zip(*taken, strict=True):
        torch.testing.assert_close(both, one + other, rtol=1e-6, atol=0)
    assert taken[0][1][2] == 4  # rows
    model.eval()
    model(first, targets=first)
    with pytest.raises(AssertionError, match="nothing was counted"):
        model.tally.take()


def test_dense_model_has_no_part_in_it():
    model = Transformer(small(num_experts=0))
    assert model.tally is None
    _, routing = model.blocks[0](torch.randn(1, 3, 64), (torch.ones(1, 1, 3, 16), torch.zeros(1, 1, 3, 16)))
    assert routing is None
    assert not any("experts" in name or "gate.weight" in name for name, _ in model.named_parameters())


def test_cached_decoding_gives_the_full_forwards_logits():
    model, tokens = built(small()).eval(), some_tokens(batch=2, time=20)
    with torch.no_grad():
        full = model(tokens)
        cache = KeyValueCache(layers=2, capacity=20)
        for start, stop in ((0, 5), (5, 6), (6, 12), *((i, i + 1) for i in range(12, 20))):
            step = model(tokens[:, start:stop], cache=cache)
            torch.testing.assert_close(step[:, 0], full[:, stop - 1], atol=1e-5, rtol=0)


def test_initial_experts_have_the_spread_of_their_inputs_and_decay():
    config = small(num_hidden_layers=8)
    for name, shape, spread in (
        ("model.layers.0.mlp.experts.gate_up_proj", (6, 80, 64), 64**-0.5),
        ("model.layers.0.mlp.experts.down_proj", (6, 64, 40), 40**-0.5 / 4),
        ("model.layers.0.mlp.gate.weight", (600, 64), 64**-0.5),
    ):
        weight = initial_weight(7, name, shape, config)
        assert weight.std().item() == pytest.approx(spread, rel=0.03)
        assert decays(weight)


@pytest.mark.full
def test_compiled_blocks_equal_eager_whatever_the_load():
    config = small()
    eager, compiled = built(config), built(config)
    keep_eager(compiled)
    for block in compiled.blocks:
        block.compile()
    for index in range(3):
        tokens = (some_tokens() * (index + 1)) % 131
        with torch._dynamo.config.patch(error_on_recompile=index > 0):
            losses = [model(tokens, targets=tokens) for model in (eager, compiled)]
            torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
            for loss in losses:
                loss.sum().backward()
    for ours, theirs in zip(gradients(compiled), gradients(eager), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_say_what_is_active(path):
    text = path.read_text()
    preset = Model(**yaml.safe_load(text))
    vocab_size, active = re.search(r"vocabulary of ([\d,]+), ([\d.,]+) million of them active", text).groups()
    preset.vocab_size = int(vocab_size.replace(",", ""))
    with torch.device("meta"):
        model = Transformer(preset)
    count = sum(parameter.numel() * active_share(name, preset) for name, parameter in model.named_parameters())
    assert f"{count / 1e6:,.1f}" == active
