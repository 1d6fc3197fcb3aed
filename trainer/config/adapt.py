"""What of a model is trained: all of it, or adapters beside weights that stay."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.knobs import knob


@dataclass
class Adapt:
    """What of a model is trained; names and defaults are peft's, where it has them."""

    name: str = knob(
        "full",
        "full: all weights. lora: two small matrices beside each of the chosen ones (Hu et al., 2021), by peft.",
        choices=("full", "lora"),
        later=True,
    )
    rank: int = knob(16, "Rank of lora's matrices.", common=True, low=1, later=True)
    alpha: float = knob(32.0, "Their product is multiplied by alpha / rank.", common=True, later=True)
    targets: list[str] = knob(
        [],
        "Names of linear layers that get an adapter, such as q_proj; by default all in the model's blocks.",
        common=True,
        later=True,
    )
    dora: bool = knob(
        False, "Train the length of each row of a weight apart from its direction (Liu et al., 2024).", later=True
    )
    quantize: str = knob(
        "none",
        "4bit: QLoRA, the layers beside adapters in NF4 by bitsandbytes; needs a GPU.",
        choices=("none", "4bit"),
        later=True,
    )
    embeddings: bool = knob(
        False,
        "Train embedding and head in full beside the adapters; so it is where the data have tokens that are new.",
        later=True,
    )
