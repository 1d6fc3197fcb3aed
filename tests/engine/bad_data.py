"""Runs with planted bad data: the losses of some positions are multiplied, whenever they are trained on."""

from __future__ import annotations

import dataclasses
import os

from tests.run_ranks import pretrain

FAULTY_POSITION = 39  # the last of step 5, on rank 1
PLANTED = "TEST_BAD_POSITIONS"  # "position:factor,…", for ranks that are started later


def with_bad_data(config):
    """The verb. The losses of a row at a planted position are multiplied by its factor, which may be nan."""
    from trainer.objective.causal import Causal

    planted = {
        int(position): float(factor)
        for position, factor in (entry.split(":") for entry in os.environ[PLANTED].split(",") if entry)
    }
    losses = Causal.losses

    def multiplied(objective, engine, batch):
        found = losses(objective, engine, batch)
        factors = found.rows.new_tensor([planted.get(int(position), 1.0) for position in batch.positions])
        return dataclasses.replace(found, rows=found.rows * factors)

    Causal.losses = multiplied
    return pretrain(config)


class Planted:
    """`with_bad_data` with positions of its own, as a picklable function."""

    def __init__(self, factors):
        self.text = ",".join(f"{position}:{factor}" for position, factor in factors.items())

    def __call__(self, config):
        os.environ[PLANTED] = self.text
        return with_bad_data(config)


def with_a_faulty_device(config):
    """The verb, whose rank 1 gets a NaN for a planted position, but only the first time that it computes it."""
    from trainer.objective.causal import Causal

    losses, done = Causal.losses, []

    def faulty(objective, engine, batch):
        found = losses(objective, engine, batch)
        if os.environ["RANK"] == "1" and FAULTY_POSITION in batch.positions and not done:
            done.append(True)
            return dataclasses.replace(found, rows=found.rows * float("nan"))
        return found

    Causal.losses = faulty
    return pretrain(config)
