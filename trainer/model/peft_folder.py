"""Adapters as peft writes them: adapter_model.safetensors and adapter_config.json, for PeftModel.from_pretrained."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from trainer.config import Adapt
from trainer.machine.durable import write_json
from trainer.model.adapters import BASE, LORA_A, MAGNITUDE, is_adapter, lora_config

PREFIX = "base_model.model."
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def peft_name(name: str) -> str:
    """The name that peft stores a parameter under: without the adapter's own, `default`."""
    if name.endswith(MAGNITUDE):
        return PREFIX + name.removesuffix(".default.weight")
    return PREFIX + (name.replace(".default.", ".") if is_adapter(name) else name.replace(BASE, "."))


def write_adapters(
    folder: Path,
    weights: Iterable[tuple[str, torch.Tensor]],
    adapt: Adapt,
    *,
    base: str,
    tied_head: str | None,
    dtype: torch.dtype,
) -> int:
    """Writes what was trained, by the names of the model with adapters, for a `base`; bytes of weights.

    `tied_head` is the name of a head that is the embedding.
    """
    from safetensors.torch import save_file

    found = dict(weights)
    layers = [name.removesuffix(LORA_A) for name in found if name.endswith(LORA_A)]
    kinds = sorted({layer.rpartition(".")[2] for layer in layers})
    config = lora_config(adapt, adapt.targets or kinds)
    config.base_model_name_or_path = base
    config.inference_mode = True
    embedding = next((name for name in found if not is_adapter(name) and name.endswith(".weight")), None)
    if tied_head is not None and embedding is not None:  # else peft would have the embedding apart from its head
        found[f"{tied_head}.weight"] = found[embedding].clone()
        config.ensure_weight_tying = True
    whole = sorted({name.split(".")[-2] for name in found if not is_adapter(name)})
    config.modules_to_save = whole or None
    config.save_pretrained(str(folder))
    written = json.loads((folder / CONFIG).read_text("utf-8"))  # sets have no order, and files should
    lists = {
        key: sorted(value) for key, value in written.items() if key in ("target_modules", "modules_to_save") and value
    }
    write_json(folder / CONFIG, written | lists)
    tensors = {peft_name(name): weight.to(dtype).contiguous() for name, weight in found.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
