"""A rank builds what it keeps, starts without sending a weight through anybody, and reads what it resumes from once."""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.model.build import parameter_shapes
from trainer.model.partition import Partition

MODEL = {"model__num_key_value_heads": 4, "model__qk_norm": True, "model__vocab_size": 303}
EXPERTS = {"model__num_experts": 4, "model__moe_intermediate_size": 40}


class Watch(TorchDispatchMode):
    """Counts the elements of tensors that are created (not on the meta device), and those that collectives pass on."""

    def __init__(self):
        super().__init__()
        self.created, self.largest, self.exchanged = 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            sizes = [t.numel() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)]
            name = func._schema.name.removeprefix("c10d::")
            self.exchanged[name] = max([self.exchanged.get(name, 0), *sizes])
        elif func._schema.name.startswith(("aten::empty", "aten::zeros", "aten::ones", "aten::full", "aten::new_")):
            size = result.numel() if not result.is_meta else 0
            self.created, self.largest = self.created + size, max(self.largest, size)
        return result

    def found(self):
        return {"created": self.created, "largest": self.largest, "exchanged": self.exchanged}


def watch_start(config):
    """Builds the run's model at every stage; leaves what each took in watched-RANK.json."""
    from trainer.engine.assemble import assemble
    from trainer.engine.deepspeed import fragments, zero
    from trainer.engine.initial_weights import seeded_weights
    from trainer.ranks.mesh import join

    mesh = join(tensor=config.parallel.tensor)
    shapes = parameter_shapes(config.model)
    found = {}
    construct = zero.construct
    for stage in range(4):
        config.parallel.zero_stage = stage
        watched = found[stage] = {}

        def watching(*given, watched=watched):
            with Watch() as watch:
                construct(*given)
            watched["construct"] = watch.found()

        zero.construct = watching
        with Watch() as watch:
            assembly = assemble(config, config.model, shapes, mesh)
        watched["assemble"] = watch.found()
        with Watch() as watch:
            source = seeded_weights(config.model, config.seed)
            fragments.restore(assembly.engine, assembly.partition, source, steps=0)
        watched["restore"] = watch.found()
        watched["held"] = sum(getattr(p, "ds_numel", p.numel()) for p in assembly.model.parameters())
    Path(config.run.dir).mkdir(exist_ok=True)
    Path(config.run.dir, f"watched-{os.environ['RANK']}.json").write_text(json.dumps(found))
    return 0


def watched_starts(corpus, run_dir, ranks, tensor, **model):
    """What `watch_start` found: for each rank, by stage."""
    config = small_config(corpus, run_dir, parallel__tensor=tensor, **model)
    assert run_ranks(watch_start, config, ranks) == [0] * ranks
    shapes = parameter_shapes(config.model)
    for rank in range(ranks):
        partition = Partition(shapes, rank % tensor, tensor, config.model.num_key_value_heads)
        held = [math.prod(partition.held_shape(name)) for name in shapes]
        yield held, json.loads((run_dir / f"watched-{rank}.json").read_text())


@pytest.mark.parametrize(
    ("ranks", "tensor", "model"),
    [
        pytest.param(2, 1, MODEL, marks=pytest.mark.full),
        (2, 2, MODEL | EXPERTS),
        pytest.param(4, 4, MODEL, marks=pytest.mark.full),
        pytest.param(4, 2, MODEL | {"model__tie_word_embeddings": True}, marks=pytest.mark.full),
    ],
    ids=["data", "tensor with experts", "tensor 4", "both tied"],
)
def test_a_rank_builds_its_slices_and_no_weight_is_exchanged(corpus, tmp_path, ranks, tensor, model):
    for held, by_stage in watched_starts(corpus, tmp_path / "run", ranks, tensor, **model):
        for stage, found in by_stage.items():
            size = sum(held)
            assert found["held"] == size
            built = found["construct"]
            if stage == "3":  # each parameter once whole, and the rank's partition of it
                partition = sum(math.ceil(part / (ranks // tensor)) for part in held)
                assert size <= built["created"] <= size + partition
                assert built["largest"] == max(held)
            else:
                assert built["created"] == size
            for part in ("construct", "assemble"):
                exchanged = found[part]["exchanged"]
                assert max(exchanged.values(), default=0) < 10, (stage, exchanged)
            exchanged = found["restore"]["exchanged"]
            if stage in "12" and ranks > tensor:  # from the masters to the weights that forward uses, as after a step
                assert all("allgather" in name for name in exchanged), exchanged
                assert max(exchanged.values()) <= size + 2 * ranks
            else:
                assert max(exchanged.values(), default=0) < 10, (stage, exchanged)


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("stage", "tensor"), [(stage, tensor) for stage in range(4) for tensor in (1, 2)])
def test_a_resume_is_exact(corpus, tmp_path, stage, tensor, precision):
    changes = {"parallel__zero_stage": stage, "parallel__tensor": tensor, "train__precision": precision} | MODEL
    unbroken = small_config(corpus, tmp_path / "unbroken", **changes)
    broken = small_config(corpus, tmp_path / "broken", **changes)
    broken.train.stop_at = 4
    assert run_ranks(pretrain, unbroken, 2) == [0, 0]
    assert run_ranks(pretrain, broken, 2) == [85, 85]
    broken.train.stop_at = None
    assert run_ranks(pretrain, broken, 2) == [0, 0]
    assert_equal_states(tmp_path / "unbroken", tmp_path / "broken")
