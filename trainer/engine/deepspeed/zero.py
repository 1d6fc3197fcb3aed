"""Our configuration → DeepSpeed's → an engine; the one place that knows DeepSpeed's defaults and traps."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trainer.config import Model, Pretrain
from trainer.config.batches import accumulation_steps, micro_batch_of
from trainer.config.training import fills_buckets
from trainer.engine.deepspeed.gradients import deepspeed_clips
from trainer.engine.deepspeed.muon import import_uncompiled
from trainer.engine.deepspeed.offload import home_of_weights, offload_settings
from trainer.engine.deepspeed.tensor_parallel import cut_empty, deal_experts
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel, build_model, undrawn
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.model.partition import Partition
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


def deepspeed_config(config: Pretrain, mesh: Mesh, partition: Partition) -> dict[str, Any]:
    """The DeepSpeed configuration of a run. ConfigError if config.deepspeed sets what has a key of ours."""
    stage = config.parallel.zero_stage
    cuda = mesh.device.type == "cuda"
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch_of(config.train, mesh.data_size),
        "gradient_accumulation_steps": accumulation_steps(config, mesh.data_size),
        # DeepSpeed's default is 1.0. Where this is 0, GradientGuard clips.
        "gradient_clipping": config.train.gradient_clipping if deepspeed_clips(config) else 0.0,
        "zero_optimization": {
            "stage": stage,
            "overlap_comm": cuda,
            "contiguous_gradients": fills_buckets(config.parallel, cuda=cuda),
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


def build_own_part(config: Pretrain, model: Model, mesh: Mesh, partition: Partition) -> LanguageModel:
    """What this rank holds of `model`, in memory that means nothing yet.

    At stage 3, each parameter is cut among ranks as soon as it exists; then tensor-parallel slices are `initialize`'s.
    """
    with undrawn():
        if config.parallel.zero_stage == 3:
            with _construction(config, mesh, partition):
                module = build_model(model)
            deal_experts(module, mesh, partition)
        elif mesh.tensor > 1:
            with torch.device("meta"):
                module = build_model(model)
            cut_empty(module, mesh, partition, deepspeed_config(config, mesh, partition))
        else:
            with mesh.device:
                module = build_model(model)
    return module


@contextlib.contextmanager
def _construction(config: Pretrain, mesh: Mesh, partition: Partition) -> Iterator[None]:
    """Where parameters are built at stage 3."""
    import deepspeed
    from deepspeed.utils import groups

    # Without `dtype`: given one, DeepSpeed 0.19.8 makes every parameter bf16 on a CPU, also for fp32.
    with (
        deepspeed.zero.Init(
            config_dict_or_path=deepspeed_config(config, mesh, partition),
            remote_device=home_of_weights(config, mesh),
            data_parallel_group=groups.get_data_parallel_group() if mesh.tensor > 1 else None,
        ),
        undrawn(),
    ):
        yield


def initialize(
    config: Pretrain, mesh: Mesh, model: LanguageModel, optimizer: torch.optim.Optimizer, partition: Partition
) -> Any:
    """DeepSpeed's engine around model and optimiser; with tensor parallelism it cuts the model as `partition` says."""
    import deepspeed

    import_uncompiled()
    with contextlib.redirect_stdout(io.StringIO()):  # AutoTP prints its settings there
        engine, _, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(config, mesh, partition),
            dist_init_required=False,
        )
    if mesh.tensor > 1:
        engine.first_dataloader_check.remove()  # compares the first batch among peers, as pickles; ours are the same
    if config.parallel.zero_stage == 0 and mesh.world_size == mesh.tensor:
        engine.enable_backward_allreduce = False  # nobody to reduce with; it would copy all gradients, there and back
    if isinstance(model, CausalLM):
        model.restore_buffers()
    for name, parameter in engine.module.named_parameters():
        shape = tuple(getattr(parameter, "ds_shape", parameter.shape))
        if shape != partition.held_shape(name):
            raise TypeError(f"DeepSpeed cut {name} into {shape}, where {partition.held_shape(name)} was meant")
    return engine
