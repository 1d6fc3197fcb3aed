"""data.reference: the log-probabilities of both answers of each pair by the model that a run will start from."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from trainer.adapt.forward import padded_batches
from trainer.data.tokens.blocks import Block
from trainer.errors import ConfigError
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.causal_lm import CausalLM
from trainer.run.frozen_model import FrozenModel


@torch.no_grad()
def reference_members(
    model: LanguageModel, place: FrozenModel, block: Block, device: torch.device
) -> dict[str, np.ndarray]:
    """`reference`, (documents, 2) fp32, in nats: sums in fp64 over the targets of each side, as in objective=dpo."""
    assert block.targets is not None
    ends = np.cumsum(block.lengths.astype(np.int64))
    starts = ends - block.lengths
    middles = starts + block.members["sides"][:, 0]
    spans = np.stack([starts, middles, middles, ends], axis=1).reshape(-1, 2)  # of sides, a pair's two in a row
    pieces = [block.tokens[start:stop] for start, stop in spans.tolist()]
    longest = max(map(len, pieces))
    if isinstance(model, CausalLM) and longest > place.window:
        raise ConfigError(
            f"{place.key}={place.given}: sees {place.window:,} tokens, and a prompt with its answer has {longest:,}; "
            "leave such pairs out of the records."
        )
    found = np.zeros(len(pieces))
    for numbers, tokens in padded_batches(pieces):
        inputs, targets = tokens[:, :-1].to(device), tokens[:, 1:].to(device)
        wanted = torch.zeros(targets.shape, dtype=torch.bool)
        for row, number in enumerate(numbers):
            start, stop = spans[number]
            wanted[row, : stop - start - 1] = torch.from_numpy(block.targets[start + 1 : stop])
        flat = targets.flatten()

        def of_targets(logits: torch.Tensor, part: slice, flat: torch.Tensor = flat) -> torch.Tensor:
            return -F.cross_entropy(logits, flat[part], reduction="none")

        values = model(inputs, from_logits=of_targets).cpu().double()
        found[numbers] = torch.where(wanted, values, 0.0).sum(dim=1).numpy()
    return {"reference": found.reshape(-1, 2).astype(np.float32)}
