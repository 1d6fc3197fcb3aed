"""Hugging Face's Trainer with LlamaForCausalLM, in an environment of its own.

Its settings are its defaults, but for the optimiser (fused AdamW), what the case says, and DDP's search for parameters
without gradients, which is off: there are none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from tests.benchmarks.contestants.stage import Stage
from tests.benchmarks.turns import Turns


class Rows(Dataset):
    """Rows of length T, which are their own labels: the model shifts them."""

    def __init__(self, stage: Stage) -> None:
        self.tokens = np.load(stage.folder / "tokens.npy", mmap_mode="r")
        self.length = stage.case.sequence_length

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        drawn = self.tokens[row * self.length : (row + 1) * self.length]
        tokens = torch.from_numpy(drawn.astype(np.int64))
        return {"input_ids": tokens, "labels": tokens}


class InTurns(TrainerCallback):
    """Takes turns between steps."""

    def __init__(self, warmup: int) -> None:
        self.turns = Turns(warmup)

    def on_step_begin(self, *arguments: object, **rest: object) -> None:
        """Of a step."""
        self.turns.between()


def main() -> None:
    """Trains in turns."""
    stage = Stage.from_arguments()
    case = stage.case
    model = LlamaForCausalLM(
        LlamaConfig(**case.model_settings(), max_position_embeddings=case.sequence_length, use_cache=False)
    )
    arguments = TrainingArguments(
        output_dir=str(stage.folder / "huggingface"),
        per_device_train_batch_size=case.rows,
        max_steps=10**6,
        use_cpu=case.device == "cpu",
        bf16=case.precision == "bf16",
        torch_compile=case.compile,
        optim="adamw_torch_fused",
        weight_decay=0.1,
        max_grad_norm=1.0,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        ddp_backend="gloo" if case.ranks > 1 else None,
        ddp_find_unused_parameters=False,
    )
    Trainer(model, arguments, train_dataset=Rows(stage), callbacks=[InTurns(case.warmup)]).train()


if __name__ == "__main__":
    main()
