"""`banyan pretrain`: token shards → a trained model. What happens is in trainer/run/training.py, from top to bottom.

banyan pretrain data.path=DIR model=tiny train.steps=400
"""

from __future__ import annotations

import os

from trainer.config import Pretrain
from trainer.rules.pretrain import check_pretrain
from trainer.run.training import run_rank


def main(config: Pretrain) -> int:
    """Runs one rank of a pretraining run, or goes on with it; the exit code."""
    check_pretrain(config, int(os.environ["WORLD_SIZE"]))
    return run_rank(config)
