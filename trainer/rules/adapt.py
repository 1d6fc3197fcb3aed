"""Refuses adapters where they can't be, before any file is read or device taken; each in one line."""

from __future__ import annotations

from trainer.config import AUTO, Pretrain
from trainer.errors import require


def check_adapt(config: Pretrain) -> None:
    """Refuses adapters where they can't be."""
    if config.adapt.name == "full":
        require(
            config.adapt.quantize == "none",
            f"adapt.quantize={config.adapt.quantize}: weights of 4 bits can't be trained, but adapters beside them; "
            "set adapt=lora.",
        )
        return
    parallel, train, model = config.parallel, config.train, config.model
    require(
        bool(model.init_from or model.path),
        "adapt=lora: adapters are beside weights that exist; set model.init_from or model.path.",
    )
    require(
        parallel.tensor == 1,
        f"parallel.tensor={parallel.tensor} with adapt=lora: layers are cut by their names and kinds, and an adapter "
        "would have to be cut with the layer that it is beside; use parallel.zero_stage=3, which shards base and "
        "adapters.",
    )
    require(
        parallel.offload == "none",
        f"parallel.offload={parallel.offload} with adapt=lora: the state of adapters is small, and DeepSpeed's offload "
        "of weights that aren't trained isn't tested here; use parallel.offload=none.",
    )
    require(
        config.optimizer.name != "muon",
        "optimizer=muon with adapt=lora: it is for whole matrices, and adapters are factors of one; use "
        "optimizer=adamw.",
    )
    require(
        not model.mup,
        "model.mup=true with adapt=lora: muP's rates are for the weights that adapters leave alone; use "
        "model.mup=false.",
    )
    require(
        train.precision != "fp8",
        "train.precision=fp8 with adapt=lora: float8 layers can't have adapters beside them; use bf16.",
    )
    require(
        train.micro_batch_size != AUTO,
        f"train.micro_batch_size={AUTO} with adapt=lora: what is measured is training of all weights; give a number.",
    )
    if config.adapt.quantize != "none":
        quantized = f"adapt.quantize={config.adapt.quantize}"
        require(
            parallel.zero_stage < 3,
            f"{quantized} with parallel.zero_stage=3: packed weights can't be sharded; use parallel.zero_stage=2, "
            "where each rank holds them whole, a quarter of bf16's size.",
        )
        require(
            not config.adapt.dora,
            f"{quantized} with adapt.dora=true: DoRA's lengths are those of weights that aren't quantised; choose one.",
        )
    require(
        not config.checkpoint.dir,
        "checkpoint.dir with adapt=lora: the base that adapters belong to isn't copied to an object store; leave "
        "checkpoint.dir out.",
    )
