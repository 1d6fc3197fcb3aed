"""What is compiled, and which products are taken together: settled for the devices, or refused."""

from __future__ import annotations

from trainer.config import AUTO, Pretrain
from trainer.errors import require


def settle_compile(config: Pretrain, *, can_compile: bool) -> bool:
    """train.compile; of AUTO, whether devices for which it pays `can_compile`, and the model's blocks are known."""
    train, model = config.train, config.model
    if train.compile != AUTO:
        return bool(train.compile)
    is_ours = model.path is None and model.kind == "decoder"
    return can_compile and is_ours and train.activation_checkpointing != "selective"


def settle_merging(config: Pretrain, *, cuda: bool) -> bool:
    """train.merge_products; of AUTO, whether putting weights together costs nothing: it is part of autocast's copy."""
    if config.train.merge_products != AUTO:
        return bool(config.train.merge_products)
    compiled = settle_compile(config, can_compile=cuda)
    return cuda and compiled and config.autocasts and _why_apart(config) is None


def check_compile(config: Pretrain) -> None:
    """Refuses compiled blocks, and products taken together, where they can't be had."""
    train = config.train
    require(
        train.compile is not True or config.model.path is None,
        "train.compile=true with model.path: only our own decoder's blocks are compiled; use train.compile=false.",
    )
    require(
        train.activation_checkpointing != "selective" or train.compile is not True,
        "train.activation_checkpointing=selective with train.compile=true: products in compiled blocks can't be told "
        "apart and would all be computed again; use train.activation_checkpointing=full or train.compile=false.",
    )
    why = _why_apart(config) if train.merge_products is True else None
    require(why is None, f"train.merge_products=true with {why}; use train.merge_products=auto.")


def _why_apart(config: Pretrain) -> str | None:
    """Why the matrices of a block can't be multiplied by together."""
    parallel = config.parallel
    if config.model.path is not None:
        return "model.path: only our own decoder's blocks are known"
    if config.model.kind != "decoder":
        return f"model={config.model.kind}: it has no such matrices"
    if parallel.zero_stage == 3:
        return "parallel.zero_stage=3: DeepSpeed brings each matrix by itself"
    if parallel.tensor > 1:
        return f"parallel.tensor={parallel.tensor}: DeepSpeed's layers exchange what each matrix makes"
    if config.adapt.name != "full":
        return f"adapt={config.adapt.name}: adapters stand beside single matrices"
    if config.train.precision == "fp8":
        return "train.precision=fp8: torchao's layers scale each matrix by itself"
    return None
