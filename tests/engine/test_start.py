"""What a start does: each rank builds its own part, draws what it holds, sends nothing; a resume draws nothing."""

import functools
import json
import math
import os
from pathlib import Path

import pytest
import torch

from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states

MODEL = {"model__num_attention_heads": 4, "model__num_key_value_heads": 4, "model__vocab_size": 512}
LAYOUTS = [(2, 1, 0), (2, 1, 1), (2, 1, 2), (2, 1, 3), (2, 2, 0), (4, 2, 1), (4, 4, 2), (4, 2, 3)]
ALWAYS = [(2, 1, 3), (4, 4, 2)]


def counting(config):
    """The verb, which leaves beside the run what each rank built, drew and sent until its first step."""
    import trainer.run.training as verb
    from trainer.engine.deepspeed import zero
    from trainer.model import normal_tiles

    counts = {"built": 0, "drawn": 0, "sent": []}
    construct, draw_tile, assemble = zero.construct, normal_tiles.draw_tile, verb.assemble

    def build(config, mesh, model, partition):
        construct(config, mesh, model, partition)
        counts["built"] = sum(parameter.numel() for parameter in model.parameters())

    def draw(key, tiling, std):
        counts["drawn"] += tiling.height * tiling.width
        return draw_tile(key, tiling, std)

    def sending(send):
        @functools.wraps(send)
        def count(*arguments, **options):
            tensors = [each for each in (*arguments, *options.values()) if torch.is_tensor(each)]
            counts["sent"].append(max(tensor.numel() for tensor in tensors) if tensors else 0)
            return send(*arguments, **options)

        return count

    def watched(*arguments):
        names = ("broadcast", "all_gather", "all_gather_into_tensor", "_all_gather_base", "all_reduce")
        originals = {name: getattr(torch.distributed, name) for name in names if hasattr(torch.distributed, name)}
        for name, send in originals.items():
            setattr(torch.distributed, name, sending(send))
        assembly = assemble(*arguments)
        for name, send in originals.items():
            setattr(torch.distributed, name, send)
        return assembly

    zero.construct, normal_tiles.draw_tile, verb.assemble = build, draw, watched
    code = pretrain(config)
    Path(f"{config.run.dir}-{os.environ['RANK']}.json").write_text(json.dumps(counts))
    return code


def counted(run_dir, ranks):
    return [json.loads(Path(f"{run_dir}-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("ranks", "tensor", "stage"),
    [pytest.param(*layout, marks=() if layout in ALWAYS else pytest.mark.full) for layout in LAYOUTS],
)
def test_a_rank_builds_and_draws_its_own_and_sends_nothing_and_a_resume_draws_nothing(
    corpus, tmp_path, ranks, tensor, stage
):
    run_dir = tmp_path / "run"
    config = small_config(corpus, run_dir, train__steps=4, parallel__zero_stage=stage, parallel__tensor=tensor, **MODEL)
    config.train.stop_at = 2
    assert run_ranks(counting, config, ranks) == [85] * ranks
    whole, embedding = whole_size(config), 512 * config.model.hidden_size
    for counts in counted(run_dir, ranks):
        if stage < 3:
            assert counts["built"] <= (whole - embedding) / tensor + embedding + 2000  # norms are on every rank
        assert counts["drawn"] > 0
        assert max(counts["sent"], default=0) <= 16  # no weights
    config.train.stop_at = None
    assert run_ranks(counting, config, ranks) == [0] * ranks
    for counts in counted(run_dir, ranks):
        assert counts["drawn"] == 0
        assert max(counts["sent"], default=0) <= 16
    assert len(read_metrics(run_dir)) == 4


def whole_size(config):
    from trainer.model.build import parameter_shapes

    return sum(map(math.prod, parameter_shapes(config.model).values()))


def test_weights_that_were_never_set_would_be_seen(corpus, tmp_path):
    """DeepSpeed's own weights are filled with NaN before a state is restored: nothing of them is left."""
    plain, poured = tmp_path / "plain", tmp_path / "poured"
    for folder, verb in ((plain, pretrain), (poured, pouring)):
        config = small_config(corpus, folder, parallel__zero_stage=3, train__steps=3)
        assert run_ranks(verb, config, 2) == [0, 0]
    assert_equal_states(plain, poured)


def pouring(config):
    """The verb, whose model is full of NaN before its state is restored."""
    from trainer.engine.deepspeed import zero

    construct = zero.construct

    def build(config, mesh, model, partition):
        construct(config, mesh, model, partition)
        for parameter in model.parameters():
            getattr(parameter, "ds_tensor", parameter).data.fill_(math.nan)

    zero.construct = build
    return pretrain(config)
