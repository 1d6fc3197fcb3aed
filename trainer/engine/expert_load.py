"""How evenly a mixture of experts is used, over all ranks: what the loop logs of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed

from trainer.engine.hooks import Hook
from trainer.model.moe import Tally
from trainer.ranks.mesh import Mesh


@dataclass(frozen=True)
class ExpertLoad(Hook):
    """The model's tally on this rank, and the ranks to sum it over."""

    tally: Tally
    mesh: Mesh

    def metrics(self) -> dict[str, float]:
        """Metrics over the steps since the last call; waits for the device. Every rank calls it and gets the same.

        load_max and load_min are the busiest and the idlest expert's share of its layer's token copies, over the fair
        share 1/E; the losses are means per token and layer, without their weights.
        """
        load, losses = self.tally.take()
        if self.mesh.world_size > 1:
            torch.distributed.all_reduce(load, group=self.mesh.control)
            torch.distributed.all_reduce(losses, group=self.mesh.control)
        relative = load / load.mean(dim=1, keepdim=True)  # (layers, num_experts)
        balance, z, rows = losses.tolist()
        return {
            "moe/load_max": relative.max().item(),
            "moe/load_min": relative.min().item(),
            "moe/balance_loss": balance / rows,
            "moe/router_z_loss": z / rows,
        }
