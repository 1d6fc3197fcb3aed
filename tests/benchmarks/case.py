"""What all contestants of a benchmark train. Only the standard library: it is read in the peers' environments, too."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Case:
    """A Llama-shaped model, `rows` rows per rank and step, and the numerics. `threads` are CPU threads per rank."""

    name: str
    precision: str = "fp32"  # or bf16: Banyan at stage 1 by DeepSpeed's bf16, all else by autocast
    compile: bool = False
    ranks: int = 1
    threads: int = 1
    device: str = "cpu"
    rows: int = 4
    sequence_length: int = 256
    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    activation_checkpointing: str = "none"
    loss_chunk: int = 2048
    warmup: int = 6  # steps before the first turn

    @property
    def tokens(self) -> int:
        """Tokens of a step, over all ranks."""
        return self.rows * self.ranks * self.sequence_length

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden_size // self.num_attention_heads

    def model_settings(self) -> dict[str, Any]:
        """The shape, by the names that Banyan's Model and Hugging Face's LlamaConfig share."""
        names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        names += ("num_key_value_heads", "rope_theta", "tie_word_embeddings")
        return {name: getattr(self, name) for name in names}

    def shrunk(self) -> Case:
        """The same case so small that a step takes milliseconds, and not compiled: to see that it runs."""
        return replace(
            self,
            compile=False,
            rows=2,
            sequence_length=32,
            vocab_size=320,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            warmup=1,
        )

    def to_json(self) -> str:
        """A JSON object in a line."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Case:
        """to_json's inverse."""
        return Case(**json.loads(text))
