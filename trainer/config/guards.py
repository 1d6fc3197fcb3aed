"""What `banyan serve` may do beside answering, all of it off by default: moderation, drift, a watermark."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config.knobs import knob


@dataclass
class Guards:
    """Keys of `serve` for what is asked and answered."""

    moderation: list[str] = knob(
        [],
        "What prompts and answers are held against: files of words, one a line, and folders of classifiers that "
        "objective=classify trained (banyan export).",
        common=True,
    )
    moderation_labels: list[str] = knob([], "Labels of the classifiers for which a text is refused.", common=True)
    moderation_threshold: float = knob(
        0.5, "Least probability of those labels together that counts.", common=True, high=1.0
    )
    drift: bool = knob(
        False,
        "Count the bits per byte of what is asked, by language, as histograms of /metrics; no text is kept.",
        common=True,
    )
    watermark: bool = knob(
        False, "Mark answers so that `banyan serve detect` knows them (Kirchenbauer et al. 2023).", common=True
    )
    watermark_key: int = knob(
        15485863, "Number that the mark follows from; with it the mark can be found and forged.", low=1, high=2**40
    )
    watermark_bias: float = knob(2.0, "Added to the logits of the tokens that are favoured.", low=0.0, high=20.0)
    watermark_fraction: float = knob(0.25, "Share of the vocabulary that is favoured.", low=0.01, high=0.99)
