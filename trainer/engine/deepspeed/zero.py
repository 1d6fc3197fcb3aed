"""Our configuration → DeepSpeed's → an engine; the one place that knows DeepSpeed's defaults and traps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from trainer.config import Pretrain
from trainer.config.batches import accumulation_steps, micro_batch_of
from trainer.config.training import bucket_elements, fills_buckets, overlaps
from trainer.engine.deepspeed import storage, tensor_parallel
from trainer.engine.deepspeed.compiler import bring_whole_blocks, unmarked_hooks
from trainer.engine.deepspeed.gradients import deepspeed_clips
from trainer.engine.deepspeed.muon import import_uncompiled, orthogonalize_whole_matrices
from trainer.engine.deepspeed.offload import offload_settings
from trainer.engine.deepspeed.replicas import ReplicaGradients
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.partition import Partition
from trainer.model.quantized import is_quantized
from trainer.ranks.mesh import Mesh

# Keys of DeepSpeed's that have one of ours: set in two places, they would disagree.
OWNED = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.batch_size and train.micro_batch_size",
    "gradient_clipping": "train.gradient_clipping",
    "optimizer": "optimizer.*",
    "scheduler": "schedule.*",
    "fp16": "train.precision",
    "bf16": "train.precision",
    "torch_autocast": "train.precision",
    "wandb": "track.wandb.*",
    "tensor_parallel": "parallel.tensor",
}

WHOLE_AT_ONCE = 1 << 26
"""Elements of offloaded matrices that stage 3 brings together for Muon: half a gigabyte with their momenta."""


def deepspeed_config(config: Pretrain, mesh: Mesh, partition: Partition) -> dict[str, Any]:
    """The DeepSpeed configuration of a run. ConfigError if config.deepspeed sets what has a key of ours."""
    stage = config.parallel.zero_stage
    cuda = mesh.device.type == "cuda"
    ranks = mesh.world_size // mesh.tensor  # that share gradients
    elements = sum(math.prod(partition.held_shape(name)) for name in partition.shapes)
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_of(config.train, mesh.data_size),
        "gradient_accumulation_steps": accumulation_steps(config, mesh.data_size),
        # DeepSpeed's default is 1.0. Where this is 0, GradientGuard clips.
        "gradient_clipping": config.train.gradient_clipping if deepspeed_clips(config) else 0.0,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": overlaps(cuda=cuda, ranks=ranks),
            "contiguous_gradients": fills_buckets(config.parallel, cuda=cuda, ranks=ranks),
            "reduce_bucket_size": bucket_elements(elements, cuda=cuda),
            "zero_hpz_partition_size": config.parallel.hpz,
            **offload_settings(config.parallel, mesh, partition),
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW steps offloaded state: no kernel to compile
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device at every step
    }
    if config.has_bf16_weights:
        # Without check_grad_overflow a NaN would reach the weights; bf16 sums of gradients would lose small ones.
        ours["bf16"] = {"enabled": True, "check_grad_overflow": True}
        ours["data_types"] = {"grad_accum_dtype": "fp32"}
    if mesh.tensor > 1:
        ours["tensor_parallel"] = {
            "autotp_size": mesh.tensor,
            "partition_config": {"use_default_specs": False, "layer_specs": partition.layer_specs()},
        }
    if config.optimizer.name == "muon" and stage == 3:
        ours["zero_optimization"]["reduce_scatter"] = False  # DeepSpeed refuses it with Muon
        ours["communication_data_type"] = "fp32"  # it is the momentum's type, too
        if config.parallel.offload != "none":  # a sub-group's gradients and momenta are whole on each rank at once
            ours["zero_optimization"]["sub_group_size"] = math.ceil(WHOLE_AT_ONCE / ranks)
    for key in config.deepspeed:
        if key in OWNED:
            raise ConfigError(f"deepspeed.{key} is set by {OWNED[key]}: use that and leave deepspeed.{key} out.")
    if "stage" in config.deepspeed.get("zero_optimization", {}):
        raise ConfigError("deepspeed.zero_optimization.stage is set by parallel.zero_stage: use that.")
    return merge(ours, config.deepspeed)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` laid on top, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if nested else value
    return merged


def construct(config: Pretrain, mesh: Mesh, model: LanguageModel, partition: Partition) -> None:
    """Gives a model on the meta device its parameters on this rank: cut as `partition` says, at stage 3 by ZeRO too.

    Their values mean nothing until `fragments.restore`.
    """
    settings = deepspeed_config(config, mesh, partition)
    add_hooks = tensor_parallel.cut(model, partition, settings) if mesh.tensor > 1 else None
    storage.allocate(model, config, mesh, settings)
    if add_hooks is not None:
        add_hooks()


def initialize(
    config: Pretrain, mesh: Mesh, model: LanguageModel, optimizer: torch.optim.Optimizer, partition: Partition
) -> Any:
    """DeepSpeed's engine around a model that was constructed here, and its optimiser."""
    import deepspeed
    from deepspeed.utils import groups

    import_uncompiled()
    if config.parallel.zero_stage == 3 and config.train.compile:
        bring_whole_blocks(model)
    with storage.without_exchange(), unmarked_hooks():
        engine, _, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, mesh, partition),
            dist_init_required=False,
        )
    if mesh.tensor > 1:
        engine.first_dataloader_check.remove()  # compares the first batch among peers, as pickles; ours are the same
        if config.optimizer.name == "muon":
            orthogonalize_whole_matrices(engine.module, partition)
    if config.parallel.zero_stage == 0 and mesh.world_size == mesh.tensor:
        engine.enable_backward_allreduce = False  # nobody to reduce with; it would copy all gradients, there and back
    elif config.parallel.zero_stage == 0 and overlaps(cuda=mesh.device.type == "cuda", ranks=mesh.world_size):
        ReplicaGradients(engine, groups._get_sequence_data_parallel_group())
    if isinstance(model, CausalLM):
        model.restore_buffers()
    for name, parameter in engine.module.named_parameters():
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if shape != partition.held_shape(name) and not is_quantized(parameter):
            raise TypeError(f"DeepSpeed cut {name} into {shape}, where {partition.held_shape(name)} was meant")
    return engine
