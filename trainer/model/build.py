"""The model that a configuration asks for: our own decoder or a Hugging Face one; and what is known before it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from trainer.config import Model
from trainer.model.decoder import Transformer
from trainer.model.hugging_face.causal_lm import CausalLM, parameters_on_meta, read_model_config
from trainer.model.hugging_face.headed import wrap
from trainer.model.hugging_face.inner_weights import InnerWeights
from trainer.model.hugging_face.tensor_plan import PlannedPartition, check_plan
from trainer.model.initialize import initial_elements
from trainer.model.lstm import LSTM
from trainer.model.partition import Partition
from trainer.model.region import Region
from trainer.model.sizes import count_active, head_width

LanguageModel = Transformer | LSTM | CausalLM


def _build_ours(config: Model) -> Transformer | LSTM:
    return LSTM(config) if config.kind == "lstm" else Transformer(config)


def build_on_meta(config: Model) -> LanguageModel:
    """The model, its parameters on the meta device, where they take no memory; buffers have their values."""
    if config.path is None:
        with torch.device("meta"):
            return _build_ours(config)
    with parameters_on_meta():
        return wrap(config)


def build_empty(config: Model, device: torch.device, dtype: torch.dtype) -> LanguageModel:
    """The model, whole on a device, with parameters of a dtype that mean nothing yet; buffers keep their precision."""
    if config.path is None:
        with torch.device("meta"):
            return _build_ours(config).to(dtype).to_empty(device=device)
    with device:
        model = wrap(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def outline_model(config: Model) -> LanguageModel:
    """The model, all of it on the meta device: modules, names and shapes, whatever sizes are claimed."""
    with torch.device("meta"):
        return _build_ours(config) if config.path is None else wrap(config)


def parameter_shapes(config: Model) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter of the whole model, by name."""
    return {name: tuple(parameter.shape) for name, parameter in outline_model(config).named_parameters()}


def partition_model(config: Model, shapes: dict[str, tuple[int, ...]], rank: int, degree: int) -> Partition:
    """What of the model one of `degree` tensor-parallel ranks holds."""
    if config.path is None:
        return Partition(shapes, rank, degree, config.num_key_value_heads)
    if degree == 1:
        return PlannedPartition(shapes)
    with torch.device("meta"):
        inner = wrap(config).inner
    return PlannedPartition(shapes, rank, degree, plan=check_plan(inner, shapes, degree))


def initial_weights(config: Model, seed: int) -> Callable[[str, Region], torch.Tensor]:
    """What makes elements of a parameter of step 0 from its name: (region.count,) fp32 on the CPU.

    Of our own decoder only what is asked for is drawn; a Hugging Face model's own rule makes parameters whole.
    """
    if config.path is not None:
        weights = InnerWeights(config, seed)
        return lambda name, region: region.cut(weights.make(name))
    return lambda name, region: initial_elements(seed, name, region, config)


def count_active_parameters(shapes: dict[str, tuple[int, ...]], config: Model) -> int:
    """Parameters that a token goes through: fewer than all where experts of ours are chosen."""
    if config.path is not None:
        return sum(map(math.prod, shapes.values()))
    return count_active(shapes, config)


def attention_sizes(config: Model) -> tuple[int, int, int] | None:
    """Layers, heads and width of a head, which FLOPs are reckoned with; None where a model has experts or no heads."""
    if config.kind == "lstm":
        return config.num_hidden_layers, 0, 0  # a token costs what its weights do
    if config.path is None:
        return config.num_hidden_layers, config.num_attention_heads, head_width(config)
    theirs = read_model_config(config)
    experts = any(getattr(theirs, key, None) for key in ("num_experts", "num_local_experts", "n_routed_experts"))
    layers, heads = (getattr(theirs, f"num_{name}", None) for name in ("hidden_layers", "attention_heads"))
    if experts or not layers or not heads or not getattr(theirs, "hidden_size", None):
        return None
    return layers, heads, getattr(theirs, "head_dim", None) or theirs.hidden_size // heads
