"""Lightning's Trainer around Banyan's own model, so that what differs is the trainer. It writes no files."""

from __future__ import annotations

import lightning
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.contestants.bare import build, build_optimizer
from tests.benchmarks.contestants.stage import Stage
from tests.benchmarks.tokens import rows
from tests.benchmarks.turns import Turns


class Rows(IterableDataset):
    """Batches of (rows, T + 1)."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    def __iter__(self):
        case = self.stage.case
        for drawn in rows(
            self.stage.folder, rank=self.stage.rank, ranks=case.ranks, size=case.rows, length=case.sequence_length
        ):
            yield torch.from_numpy(drawn)


class Module(lightning.LightningModule):
    """The model, its loss and its optimiser."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        """Mean loss of a batch."""
        targets = batch[:, 1:].contiguous()
        return self.model(batch[:, :-1].contiguous(), targets).sum() / targets.numel()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The same as the others'."""
        return build_optimizer(self.model)

    def configure_gradient_clipping(
        self, optimizer: object, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """torch's own: in bf16 Lightning refuses to clip for a fused optimiser."""
        torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)


class InTurns(lightning.Callback):
    """Takes turns between steps."""

    def __init__(self, warmup: int) -> None:
        self.turns = Turns(warmup)

    def on_train_batch_start(self, *arguments: object) -> None:
        """Of a step."""
        self.turns.between()


def main() -> None:
    """Trains in turns."""
    stage = Stage.from_arguments()
    case = stage.case
    trainer = lightning.Trainer(
        accelerator="cpu" if case.device == "cpu" else "gpu",
        devices=case.ranks,
        strategy="ddp" if case.ranks > 1 else "auto",
        precision="bf16-mixed" if case.precision == "bf16" else "32-true",
        max_steps=10**6,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        log_every_n_steps=10,
        default_root_dir=str(stage.folder),
        callbacks=[InTurns(case.warmup)],
    )
    trainer.fit(Module(build(case)), DataLoader(Rows(stage), batch_size=None))


if __name__ == "__main__":
    main()
