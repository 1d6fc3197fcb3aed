"""What TRL says of pairs: run by its own Python (tests/peers/trl.sh), JSON in, JSON out. Nothing of ours is imported.

{"policy": FOLDER, "reference": FOLDER, "pairs": [{"prompt", "chosen", "rejected"}, …] of ids, "cases": {name: {…}}}
→ {name: {"loss": …, "metrics": {…}, "gradients": {parameter: norm}}}
"""

import json
import sys
import tempfile
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.experimental.orpo import ORPOTrainer


def padded(sequences: list[list[int]], value: int) -> torch.Tensor:
    """Sequences as one tensor, padded on the right."""
    longest = max(map(len, sequences))
    return torch.tensor([[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences])


def batch_of(pairs: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch as TRL's DataCollatorForPreference makes it: all chosen, then all rejected."""
    sides = [(pair["prompt"], pair[side]) for side in ("chosen", "rejected") for pair in pairs]
    return {
        "input_ids": padded([[*prompt, *answer] for prompt, answer in sides], 0),
        "attention_mask": padded([[1] * (len(prompt) + len(answer)) for prompt, answer in sides], 0),
        "completion_mask": padded([[0] * len(prompt) + [1] * len(answer) for prompt, answer in sides], 0),
    }


def orpo_of(policy: Any, pairs: list[dict[str, list[int]]], beta: float) -> dict[str, Any]:
    """ORPO by TRL's own odds and log-probabilities, of answers alone: its trainer would learn prompts, too."""
    batch = batch_of(pairs)
    labels = torch.where(batch["completion_mask"] == 1, batch["input_ids"], -100)
    logits = policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    means = ORPOTrainer.get_batch_logps(logits, labels, average_log_prob=True, is_encoder_decoder=False)
    chosen, rejected = means[: len(pairs)], means[len(pairs) :]
    trainer = SimpleNamespace(beta=beta, accelerator=SimpleNamespace(device=means.device))
    odds_losses, chosen_rewards, rejected_rewards, ratio, odds = ORPOTrainer.odds_ratio_loss(trainer, chosen, rejected)
    loss = (-chosen - odds_losses).mean()
    loss.backward()
    metrics = {
        "rewards/chosen": chosen_rewards.mean().item(),
        "rewards/rejected": rejected_rewards.mean().item(),
        "rewards/margins": (chosen_rewards - rejected_rewards).mean().item(),
        "rewards/accuracies": (chosen_rewards > rejected_rewards).float().mean().item(),
        "log_odds_ratio": ratio.item(),
        "log_odds_chosen": odds.item(),
    }
    gradients = {key: value.grad.norm().item() for key, value in policy.named_parameters()}
    return {"loss": loss.item(), "metrics": metrics, "gradients": gradients}


def main() -> None:
    """Answers standard input."""
    asked = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(asked["policy"])
    tokenizer.pad_token = tokenizer.eos_token
    found = {}
    for name, settings in asked["cases"].items():
        if name == "orpo":
            policy = AutoModelForCausalLM.from_pretrained(asked["policy"], dtype=torch.float32).train()
            found[name] = orpo_of(policy, asked["pairs"], **settings)
            continue
        arguments = DPOConfig(
            output_dir=tempfile.mkdtemp(),
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            **settings,
        )
        policy = AutoModelForCausalLM.from_pretrained(asked["policy"], dtype=torch.float32)
        reference = AutoModelForCausalLM.from_pretrained(asked["reference"], dtype=torch.float32)
        records = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
        trainer = DPOTrainer(
            policy, ref_model=reference, args=arguments, train_dataset=records, processing_class=tokenizer
        )
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch_of(asked["pairs"]))
        loss.backward()
        metrics = {key: sum(values) / len(values) for key, values in trainer._metrics["train"].items()}
        gradients = {key: value.grad.norm().item() for key, value in trainer.model.named_parameters()}
        found[name] = {"loss": loss.item(), "metrics": metrics, "gradients": gradients}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
