"""health.layers_every: RUN/layers.jsonl is the same at any stage and number of ranks, and what plain torch makes."""

import json
import math

import pytest
import torch

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from tests.states import read_state
from trainer.checkpoint.fragment import WEIGHT
from trainer.engine.layer_stats import layer_of

KEYS = ("weight_norm", "grad_norm", "update_norm", "activation_rms", "zero_share", "attention_entropy")


def rows_of(corpus, folder, *, stage, ranks, **changes):
    usual = {"train__steps": 4, "checkpoint__every": 1, "checkpoint__keep": 9, "health__layers_every": 2}
    config = small_config(corpus, folder, parallel__zero_stage=stage, **(usual | changes))
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    rows = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    return rows


def norms_of(state):
    squares = {}
    for (name, kind), values in state.items():
        if kind == WEIGHT:
            squares[layer_of(name)] = squares.get(layer_of(name), 0.0) + values.double().square().sum().item()
    return {layer: math.sqrt(square) for layer, square in squares.items()}


def check_norms(folder, rows):
    """Against checkpoints, and the gradient norm that is logged."""
    logged = {row["step"]: row["train/grad_norm"] for row in read_metrics(folder)}
    for row in rows:
        after, before = read_state(folder, row["step"]), read_state(folder, row["step"] - 1)
        changed = {key: after[key] - before[key] for key in after if key[1] == WEIGHT}
        for name, state in (("weight_norm", after), ("update_norm", changed)):
            expected = norms_of(state)
            assert row["layers"] == list(dict.fromkeys(row["layers"]))
            assert dict(zip(row["layers"], row[name], strict=True)) == pytest.approx(expected, rel=1e-5)
        assert math.hypot(*row["grad_norm"]) == pytest.approx(logged[row["step"]], rel=1e-4)


def check_activations(corpus, folder, row):
    """Against a forward of plain torch over the same row, with the checkpoint's weights."""
    from trainer.checkpoint.find import find_checkpoint
    from trainer.data.tokens.datasets import open_training
    from trainer.data.tokens.history import read_history
    from trainer.data.tokens.order import Order
    from trainer.evaluate.trained_model import load_model
    from trainer.run.directory import read_config

    config = read_config(folder)
    training = open_training(config.data, config.seed)
    order = Order(
        [each.rows for each in training],
        read_history(folder).segments,
        seed=config.seed,
        window=config.data.shuffle_shards,
    )
    (place,) = order.places((row["step"] - 1) * 8, (row["step"] - 1) * 8 + 1)
    tokens = torch.tensor(training[0].shards[place.shard].read(place.row * 32, place.row * 32 + 32).tolist())[None]
    checkpoint = find_checkpoint(folder, row["step"])
    model = load_model(config.model, checkpoint, torch.device("cpu"), torch.float32, adapt=config.adapt).eval()
    hidden, rms, entropies = model.model.embed_tokens(tokens), [], []
    from trainer.model.attention import apply_rotary
    from trainer.model.rotary import rotary_tables

    rotary = rotary_tables(torch.arange(32)[None], 12, config.model.rope_theta)
    with torch.no_grad():
        for block in model.blocks:
            normed, attention = block.input_layernorm(hidden), block.self_attn
            heads = [part(normed).view(1, 32, -1, 12).transpose(1, 2) for part in (attention.q_proj, attention.k_proj)]
            queries, keys = (apply_rotary(each, rotary) for each in heads)
            scores = queries @ keys.repeat_interleave(2, dim=1).transpose(2, 3) / math.sqrt(12)
            shares = scores.masked_fill(torch.ones(32, 32).triu(1).bool(), -math.inf).softmax(-1)
            entropies.append(-(shares * shares.clamp(min=1e-30).log()).sum(-1).mean().item())
            hidden = block(hidden, rotary)[0]
            rms.append(hidden.square().mean().sqrt().item())
        logit_max = model(tokens).max().item()
    assert row["activation_rms"] == pytest.approx(rms, rel=1e-4)
    assert row["attention_entropy"] == pytest.approx(entropies, rel=1e-4)
    assert row["logit_max"] == pytest.approx(logit_max, rel=1e-4)
    assert row["zero_share"] == [0.0, 0.0]


def test_statistics_are_plain_torchs_at_stage_0_and_3(corpus, tmp_path):
    alone = rows_of(corpus, tmp_path / "alone", stage=0, ranks=1)
    check_norms(tmp_path / "alone", alone)
    check_activations(corpus, tmp_path / "alone", alone[1])
    spread = rows_of(corpus, tmp_path / "spread", stage=3, ranks=2)
    check_norms(tmp_path / "spread", spread)
    for one, two in zip(alone, spread, strict=True):
        assert one["layers"] == two["layers"]
        for key in KEYS:
            assert one[key] == pytest.approx(two[key], rel=2e-3, abs=1e-6), key


@pytest.mark.full
@pytest.mark.parametrize(
    ("stage", "ranks", "changes"),
    [
        (0, 2, {}),
        (1, 2, {}),
        (2, 2, {}),
        (3, 1, {}),
        (1, 2, {"train__precision": "bf16"}),
        (2, 2, {"train__precision": "bf16"}),
        (0, 2, {"optimizer__name": "muon"}),
        (2, 2, {"optimizer__name": "muon"}),
        (3, 2, {"optimizer__name": "muon"}),
        (0, 2, {"parallel__tensor": 2}),
        (2, 2, {"parallel__tensor": 2}),
    ],
)
def test_norms_at_every_stage(corpus, tmp_path, stage, ranks, changes):
    check_norms(tmp_path, rows_of(corpus, tmp_path, stage=stage, ranks=ranks, **changes))


@pytest.mark.full
def test_the_load_of_experts_is_a_share(corpus, tmp_path):
    changes = {"model__num_experts": 4, "model__num_experts_per_tok": 2, "model__moe_intermediate_size": 32}
    for row in rows_of(corpus, tmp_path, stage=0, ranks=1, **changes):
        assert [sum(load) for load in row["expert_load"]] == pytest.approx([1.0, 1.0])
        assert "zero_share" not in row


@pytest.mark.full
def test_looking_changes_nothing(corpus, tmp_path):
    rows_of(corpus, tmp_path / "with", stage=2, ranks=2, model__dropout=0.1)
    rows_of_without = small_config(
        corpus, tmp_path / "without", parallel__zero_stage=2, train__steps=4, model__dropout=0.1
    )
    assert run_ranks(pretrain, rows_of_without, 2) == [0, 0]
    one, two = read_metrics(tmp_path / "with"), read_metrics(tmp_path / "without")
    assert [row["train/loss"] for row in one] == [row["train/loss"] for row in two]
