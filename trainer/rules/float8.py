"""Float8 products: refused where the hardware can't take the matrices, or where they can't be put in their place."""

from __future__ import annotations

from trainer.config import AUTO, Pretrain
from trainer.errors import require
from trainer.model.sizes import head_width

FLOAT8_MULTIPLE = 16
"""Of both sizes of a matrix, for float8 tensor cores."""


def check_float8(config: Pretrain) -> None:
    """Refuses float8 products of matrices that the hardware can't take, or that torchao doesn't know how to replace."""
    model = config.model
    if config.train.precision != "fp8":
        return
    why = None
    if model.path is not None:
        why = "model.path: only our own decoder's blocks are known"
    elif model.num_experts > 0:
        why = f"model.num_experts={model.num_experts}: the experts' grouped products would stay in bf16"
    elif config.parallel.zero_stage == 0:
        why = "parallel.zero_stage=0: what float8 rounds are bf16 weights, which are kept from stage 1 on"
    elif config.parallel.tensor > 1:
        why = f"parallel.tensor={config.parallel.tensor}: DeepSpeed replaces the layers that torchao would"
    require(why is None, f"train.precision=fp8 with {why}; use train.precision=bf16.")
    head_dim = head_width(model)
    sizes = {
        "model.hidden_size": model.hidden_size,
        "model.intermediate_size": model.intermediate_size,
        "model.num_attention_heads · head_dim": model.num_attention_heads * head_dim,
        "model.num_key_value_heads · head_dim": model.num_key_value_heads * head_dim,
    }
    for name, size in sizes.items():
        require(
            size % FLOAT8_MULTIPLE == 0,
            f"{name}={size} with train.precision=fp8: float8 products need multiples of {FLOAT8_MULTIPLE}; change it, "
            "or use train.precision=bf16.",
        )


def check_float8_head(config: Pretrain) -> None:
    """Refuses a float8 head where the matrix isn't whole on each rank, or the loss doesn't take its gradients."""
    model, train, parallel = config.model, config.train, config.parallel
    if not train.fp8_head:
        return
    why, mend = None, "use train.fp8_head=false"
    if model.path is not None or model.kind != "decoder":
        why = f"model.path={model.path}" if model.path is not None else f"model={model.kind}"
        why += ": only our own decoder's head is known"
    elif config.objective.name != "causal":
        why = f"objective={config.objective.name}: it asks for logits, whose tokens weigh what they will"
    elif config.adapt.name != "full":
        why = f"adapt={config.adapt.name}: a head that isn't trained would be rounded anew each step"
    elif parallel.zero_stage == 3:
        why, mend = "parallel.zero_stage=3: DeepSpeed brings the head by hooks", "use parallel.zero_stage=0, 1 or 2"
    elif parallel.tensor > 1:
        why = f"parallel.tensor={parallel.tensor}: a rank has a slice of the head"
    elif train.precision not in (AUTO, "bf16", "fp8"):
        why = f"train.precision={train.precision}: what is left of the head is in bf16"
        mend = "use train.precision=bf16"
    require(why is None, f"train.fp8_head=true with {why}; {mend}.")
    for name, size in (("hidden_size", model.hidden_size), ("vocab_size", model.vocab_size or 0)):
        require(
            size % FLOAT8_MULTIPLE == 0,
            f"model.{name}={size} with train.fp8_head=true: float8 products need multiples of {FLOAT8_MULTIPLE}; use "
            f"{-(-size // FLOAT8_MULTIPLE) * FLOAT8_MULTIPLE}, or train.fp8_head=false.",
        )
