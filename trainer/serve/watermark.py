"""The watermark of Kirchenbauer et al. (2023): Hugging Face's logits processor and detector, with serve.watermark_*.

After each token a share of the vocabulary, drawn from the key and that token, is favoured by a bias on its logits.
Whoever has the key counts how many tokens of a text are favoured ones, and how unlikely so many are by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trainer.config.guards import Guards
from trainer.errors import ConfigError

FEWEST_TOKENS = 16  # of a text that a detector says anything about
FAVOURED_KEPT = 4096  # tokens whose favoured followers are kept; a byte for each token of the vocabulary


@dataclass(frozen=True)
class Mark:
    """How answers are marked. `vocab_size` is that of the logits."""

    key: int
    bias: float
    fraction: float
    vocab_size: int

    @property
    def settings(self) -> dict[str, Any]:
        """As transformers' WatermarkingConfig takes them."""
        return {
            "greenlist_ratio": self.fraction,
            "bias": self.bias,
            "hashing_key": self.key,
            "seeding_scheme": "lefthash",
            "context_width": 1,
        }

    def processor(self, device: torch.device | str = "cpu") -> Any:
        """transformers' logits processor: (ids (rows, length), scores (rows, vocab_size)) -> scores. For one thread."""
        kind = _transformers().WatermarkLogitsProcessor
        return kind(vocab_size=self.vocab_size, device=str(device), **self.settings)

    def detector(self, device: torch.device | str = "cpu") -> Detector:
        """What tells marked texts."""
        return Detector(self, str(device))


@dataclass(frozen=True)
class MarkReading:
    """What a detector counted: distinct pairs of tokens that follow each other, and how many are favoured.

    `z` is how many standard deviations that is above what unmarked text has; `p` how likely as much is by chance, if
    the pairs of unmarked text were drawn independently.
    """

    pairs: int
    favoured: int
    z: float
    p: float


class Detector:
    """transformers' detector, by the same key; repeated pairs count once: a text that repeats itself says no more."""

    def __init__(self, mark: Mark, device: str) -> None:
        transformers = _transformers()
        no_beginning = {"vocab_size": mark.vocab_size, "bos_token_id": -1}  # so that nothing is cut off
        config = transformers.PreTrainedConfig(**no_beginning)
        kind = transformers.WatermarkDetector
        self._detector = kind(config, device, mark.settings, ignore_repeated_ngrams=True)
        # Its own cache asks for the same tensor, not for an equal one: it never hits, and each pair draws a vocabulary.
        self._detector._get_ngram_score_cached = self._is_favoured
        self._favoured_after = lru_cache(FAVOURED_KEPT)(self._draw)
        self._device = device

    def _is_favoured(self, prefix: Tensor, target: int) -> bool:
        return bool(self._favoured_after(int(prefix[-1]))[target])

    def _draw(self, token: int) -> Tensor:
        """Which tokens are favoured after one. (vocab_size,) bool."""
        processor = self._detector.processor
        favoured = torch.zeros(processor.vocab_size, dtype=torch.bool)
        favoured[processor._get_greenlist_ids(torch.tensor([token], device=self._device)).cpu()] = True
        return favoured

    def read(self, ids: Sequence[int]) -> MarkReading:
        """The reading of a text's ids, of which there must be FEWEST_TOKENS."""
        rows = torch.tensor([list(ids)], device=self._device)
        found = self._detector(rows, return_dict=True)
        return MarkReading(
            int(found.num_tokens_scored[0]),
            int(found.num_green_tokens[0]),
            float(found.z_score[0]),
            float(found.p_value[0]),
        )


def mark_of(settings: Guards, vocab_size: int) -> Mark | None:
    """What serve.watermark asks for; None where it is off."""
    if not settings.watermark:
        return None
    return Mark(settings.watermark_key, settings.watermark_bias, settings.watermark_fraction, vocab_size)


def favour(processor: Any, ids: Sequence[int], logits: Tensor) -> Tensor:
    """The logits of one next token, (vocab_size,), with the bias; `ids` are those before it."""
    last = torch.tensor([list(ids[-1:])], device=logits.device)
    return processor(last, logits[None])[0] if len(ids) else logits


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "serve.watermark needs the package transformers, which is missing: pip install 'banyan-train[hf]'."
        ) from error
    return transformers
