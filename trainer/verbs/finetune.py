"""`banyan finetune`: a trained model and more data → that model, adapted. It is pretraining with other defaults.

banyan finetune model.init_from=runs/base data.path=DIR
banyan finetune model.path=HF_FOLDER data.path=DIR adapt=lora

What happens is in trainer/run/training.py, from top to bottom.
"""

from __future__ import annotations

import os

from trainer.config import Finetune
from trainer.rules.finetune import check_finetune
from trainer.run.training import run_rank


def main(config: Finetune) -> int:
    """Runs one rank of a fine-tuning run, or goes on with it; the exit code."""
    check_finetune(config, int(os.environ["WORLD_SIZE"]))
    return run_rank(config)
