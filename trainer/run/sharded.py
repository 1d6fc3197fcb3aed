"""A trained model that is judged in parts: sharded by ZeRO-3, or its layers cut by tensor parallelism, as in training.

For models that a rank can't hold whole. DeepSpeed shards weights for an optimiser alone, so there is one, of one moment
and without steps: some 12 bytes for each parameter over all ranks together.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import WEIGHT, kind_of_weights
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.state import read_state
from trainer.config import Checkpoint, EvaluateVerb, Parallel, Pretrain, Run
from trainer.engine.assemble import assemble
from trainer.engine.bf16 import autocast
from trainer.engine.deepspeed import fragments
from trainer.errors import require
from trainer.model.build import parameter_shapes
from trainer.model.hugging_face.folder import own_model
from trainer.model.hugging_face.heads import CAUSAL
from trainer.model.region import Region
from trainer.ranks.mesh import Mesh, join
from trainer.rules.layouts import check_layout
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir, require_tokenizer_of
from trainer.run.rank_log import log_to_file
from trainer.run.speaker import Speaker, open_speaker

LONGEST_WAIT_S = 24 * 3600.0  # of a rank that is through for the last one
SHARDED = 3  # the ZeRO stage


def join_judging(config: EvaluateVerb) -> Mesh:
    """Joins the ranks of an evaluation, as parallel.* says."""
    parallel = config.parallel
    allowed = Parallel(zero_stage=parallel.zero_stage, tensor=parallel.tensor, uneven_heads=parallel.uneven_heads)
    require(
        parallel == allowed and parallel.zero_stage in (0, SHARDED),
        "parallel: evaluate takes zero_stage=3, which shards the weights, and tensor; leave the others out.",
    )
    require(
        config.path is None or not is_sharded(parallel),
        f"path={config.path}: a Hugging Face folder is held whole by each rank; parallel.zero_stage and tensor are of "
        "run.dir.",
    )
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    require(
        ranks % parallel.tensor == 0,
        f"parallel.tensor={parallel.tensor}: doesn't divide the {ranks} ranks there are; make launch.processes a "
        "multiple of it.",
    )
    return join(tensor=parallel.tensor, hang_timeout_s=LONGEST_WAIT_S)


def is_sharded(parallel: Parallel) -> bool:
    """Whether no rank holds the whole model."""
    return parallel.zero_stage == SHARDED or parallel.tensor > 1


def open_judged(config: EvaluateVerb, mesh: Mesh) -> Speaker:
    """The model that is judged, whole on each rank or in parts, which computes as in training. Every rank calls it."""
    if is_sharded(config.parallel):
        return open_sharded(config.run, config.checkpoint, config.parallel, mesh)
    return open_speaker(config.run, config.checkpoint, config.path, device=mesh.device, as_trained=True)


def open_sharded(run: Run, settings: Checkpoint, parallel: Parallel, mesh: Mesh) -> Speaker:
    """A checkpoint of a run in parts. ConfigError where this can't be as it was trained."""
    run_dir = require_run_dir(run.dir)
    config, tokenizer = read_config(run_dir), load_run_tokenizer(run_dir)
    require(
        config.adapt.name == "full" and config.model.head == CAUSAL,
        f"run.dir={run.dir}: parallel.* of evaluate are for causal models without adapters; leave them out, or export "
        "it, which merges adapters.",
    )
    checkpoint = mesh.main_finds(lambda: find_checkpoint(run_dir, settings.step))
    require_tokenizer_of(checkpoint, read_state(checkpoint), tokenizer)
    log_to_file(run_dir, mesh.rank)
    judged = _for_judging(config, parallel, mesh)
    check_layout(judged, mesh.world_size)
    model = own_model(config.model, run_dir)
    shapes = parameter_shapes(model)
    reader, kind = CheckpointReader(checkpoint), kind_of_weights(settings)
    reader.require(kind)
    reader.check_shapes(shapes)

    def weights_alone(name: str, wanted: str, region: Region) -> Tensor:
        return reader.read(name, kind, region) if wanted == WEIGHT else torch.zeros(region.count)

    assembly = assemble(judged, model, shapes, mesh)
    fragments.restore(assembly.engine, assembly.partition, weights_alone, steps=0)
    assembly.engine.eval()
    module: Any = assembly.engine.module
    if config.autocasts:
        autocast(module, mesh.device)
    module.__dict__["engine"] = assembly.engine  # which gathers its parts; as a submodule it would be in a circle
    described = {"checkpoint": str(checkpoint.absolute()), "weights": kind}
    return Speaker(module, tokenizer, config.data.sequence_length, frozenset([tokenizer.end_of_text_id]), described)


def _for_judging(config: Pretrain, parallel: Parallel, mesh: Mesh) -> Pretrain:
    """The run's configuration in this layout, with weights of the run's precision."""
    stage = SHARDED if parallel.zero_stage == SHARDED or config.has_bf16_weights else 0
    train = replace(
        config.train,
        batch_size=mesh.data_size,
        micro_batch_size=1,
        compile=False,
        activation_checkpointing="none",
        precision="bf16" if config.has_bf16_weights else "fp32",
    )
    return replace(
        config,
        parallel=replace(parallel, zero_stage=stage),
        train=train,
        optimizer=replace(config.optimizer, name="sgd"),
        deepspeed={},
    )
