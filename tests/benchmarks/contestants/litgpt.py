"""litgpt's own pretrain.setup, with its GPT in the same shape. It compiles always, and leaves AdamW unfused on a CPU;
where the case doesn't compile, torch's compiler is turned off by its environment variable."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.case import Case
from tests.benchmarks.contestants.stage import Stage
from tests.benchmarks.tokens import rows
from tests.benchmarks.turns import Turns

stage = Stage.from_arguments()
if not stage.case.compile:
    os.environ["TORCHDYNAMO_DISABLE"] = "1"

from litgpt.args import EvalArgs, TrainArgs  # noqa: E402
from litgpt.config import Config  # noqa: E402
from litgpt.data import DataModule  # noqa: E402
from litgpt.pretrain import setup  # noqa: E402


class Rows(IterableDataset):
    """Batches of (rows, T + 1); with `turns`, one is only given in its turn."""

    def __init__(self, turns: Turns | None) -> None:
        self.turns = turns

    def __iter__(self):
        case = stage.case
        size = {"size": case.rows, "length": case.sequence_length}
        for drawn in rows(stage.folder, rank=stage.rank, ranks=case.ranks, **size):
            if self.turns is not None:
                self.turns.between()
            yield torch.from_numpy(drawn)


@dataclass
class Tokens(DataModule):
    """The tokens."""

    def connect(self, tokenizer: object = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        """What litgpt tells; the case says the same."""

    def train_dataloader(self) -> DataLoader:
        """In turns."""
        return DataLoader(Rows(Turns(stage.case.warmup)), batch_size=None)

    def val_dataloader(self) -> DataLoader:
        """Two batches, that litgpt looks at before it begins."""
        return DataLoader(Rows(None), batch_size=None)


def shape(case: Case) -> Config:
    """A Llama of litgpt's."""
    return Config(
        name="case",
        block_size=case.sequence_length,
        vocab_size=case.vocab_size,
        padded_vocab_size=case.vocab_size,
        n_layer=case.num_hidden_layers,
        n_head=case.num_attention_heads,
        n_embd=case.hidden_size,
        n_query_groups=case.num_key_value_heads,
        intermediate_size=case.intermediate_size,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
        rope_base=int(case.rope_theta),
    )


def main() -> None:
    """Trains in turns."""
    case = stage.case
    setup(
        model_name="case",
        model_config=shape(case),
        out_dir=stage.folder / "litgpt",
        precision="bf16-mixed" if case.precision == "bf16" else "32-true",
        data=Tokens(),
        train=TrainArgs(
            save_interval=None,
            log_interval=10,
            global_batch_size=case.rows * case.ranks,
            micro_batch_size=case.rows,
            max_tokens=10**11,
            max_norm=1.0,
            lr_warmup_steps=100,
        ),
        eval=EvalArgs(interval=10**6, final_validation=False),
        devices=case.ranks,
        logger_name="csv",
    )


if __name__ == "__main__":
    main()
