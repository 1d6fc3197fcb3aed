"""Texts against reference texts: BLEU and chrF by sacrebleu, ROUGE by rouge-score.

Values are [predicted, [reference, …]].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trainer.errors import ConfigError

Values = Sequence[tuple[str, Sequence[str]]]


def bleu(values: Values) -> float:
    """sacrebleu's corpus BLEU, 0 to 100: 13a tokenization, exponential smoothing; mixed case."""
    return float(_sacrebleu().corpus_bleu([predicted for predicted, _ in values], _streams(values)).score)


def chrf(values: Values) -> float:
    """sacrebleu's corpus chrF2, 0 to 100: character 6-grams, no words."""
    return float(_sacrebleu().corpus_chrf([predicted for predicted, _ in values], _streams(values)).score)


def rouge(name: str) -> Callable[[Values], float]:
    """The mean F-measure of rouge-score's `name`, 0 to 1, without stemming; of several references the best counts."""

    def figure(values: Values) -> float:
        try:
            from rouge_score.rouge_scorer import RougeScorer
        except ImportError:
            raise ConfigError(
                f"{name} needs rouge-score, which isn't installed: pip install 'banyan-train[eval]'."
            ) from None
        scorer = RougeScorer([name])
        scores = [scorer.score_multi(list(wanted), predicted)[name].fmeasure for predicted, wanted in values]
        return float(sum(scores) / len(scores))

    return figure


def _streams(values: Values) -> list[list[str | None]]:
    """References as sacrebleu takes them: the first ones of all, the second ones, …; None where there are fewer."""
    most = max(len(wanted) for _, wanted in values)
    return [[wanted[place] if place < len(wanted) else None for _, wanted in values] for place in range(most)]


def _sacrebleu() -> Any:
    try:
        import sacrebleu
    except ImportError:
        raise ConfigError(
            "this metric needs sacrebleu, which isn't installed: pip install 'banyan-train[eval]'."
        ) from None
    return sacrebleu
