"""torchtitan's Llama 3 as it trains it on one device: autocast, each block compiled, fused AdamW, all logits at once
with its own loss compiled, too. Its embedding and head aren't tied, whatever the case says."""

from __future__ import annotations

import torch
from torch import Tensor
from torchtitan.components.loss import cross_entropy_loss
from torchtitan.config.job_config import ActivationCheckpoint, Compile
from torchtitan.distributed.activation_checkpoint import apply_ac
from torchtitan.models.llama3.infra.parallelize import apply_compile
from torchtitan.models.llama3.model.args import TransformerModelArgs
from torchtitan.models.llama3.model.model import Transformer

from tests.benchmarks.case import Case
from tests.benchmarks.contestants.bare import train_in_turns
from tests.benchmarks.contestants.stage import Stage


def build(case: Case) -> Transformer:
    """torchtitan's model in the shape of a case, on its device, with weights of its own choice."""
    arguments = TransformerModelArgs(
        dim=case.hidden_size,
        n_layers=case.num_hidden_layers,
        n_heads=case.num_attention_heads,
        n_kv_heads=case.num_key_value_heads,
        vocab_size=case.vocab_size,
        multiple_of=case.intermediate_size,  # a width that follows from `dim` is rounded up to this:
        ffn_dim_multiplier=1 / case.hidden_size,  # a width of 2
        rope_theta=case.rope_theta,
        max_seq_len=case.sequence_length,
    )
    with torch.device(case.device), torch.no_grad():
        model = Transformer(arguments)
        model.init_weights()
    return model


def main() -> None:
    """Trains in turns."""
    stage = Stage.from_arguments()
    case = stage.case
    model, loss = build(case), cross_entropy_loss
    if case.activation_checkpointing == "full":
        apply_ac(model, ActivationCheckpoint(mode="full"), model_compile_enabled=case.compile)
    if case.compile:
        apply_compile(model, Compile(enable=True))
        loss = torch.compile(cross_entropy_loss)

    def mean_loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return loss(model(inputs), targets) / targets.numel()

    train_in_turns(stage, model, mean_loss)


if __name__ == "__main__":
    main()
