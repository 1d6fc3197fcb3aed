"""How often identifiers of languages are right, by language, on translated messages (tests/peers/languages.sh).

    python -m tests.benchmarks.languages FOLDER      # FOLDER holds Django, and perhaps pycld2 and py3langid

A locale's messages, without what is to be filled in, stand together in texts of about 200 and 1,000 characters.
"""

from __future__ import annotations

import gettext
import importlib
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from trainer.data.clean.identify import identify, language_model

SIZES = (200, 1000)
LOWEST_SCORE = 0.65
SAME = {  # locale or answer: the language that counts
    "nb": "no", "nn": "no", "zh-Hant": "zh", "zh-Hans": "zh", "zh_Hans": "zh", "zh_Hant": "zh", "iw": "he", "in": "id",
    "tl": "fil", "sr_Latn": "sr", "hsb": "hsb", "un": "und",
}  # fmt: skip
_FILLED_IN = re.compile(r"%\(\w+\)\w|%[sd]|\{[^}]*\}|<[^>]*>|https?://\S+")


def main(folder: Path) -> None:
    """Prints the accuracy of each identifier, and of ours by language."""
    texts = {size: list(labelled_texts(folder, size)) for size in SIZES}
    languages = {language for language, _ in texts[SIZES[0]]}
    for size, labelled in texts.items():
        print(f"{len(labelled):,} texts of about {size} characters in {len(languages)} languages")
        for name, ask in identifiers().items():
            begun = time.process_time()
            answers = [(language, *ask(text)) for language, text in labelled]
            taken = time.process_time() - begun
            rates = accuracy([(language, answer) for language, answer, _ in answers])
            seen = sum(len(text.encode()) for _, text in labelled) / 1e6 / taken
            mean = sum(rates.values()) / len(rates)
            print(f"  {name:24} {mean:.3f} mean over languages, {seen:.1f} MB/s")
            if name.startswith("lid.176"):
                kept = accuracy([(each, answer if score >= LOWEST_SCORE else "") for each, answer, score in answers])
                for language in sorted(rates, key=lambda each: (rates[each], each)):
                    wrong = {answer for each, answer, _ in answers if each == language and answer != language}
                    if rates[language] < 1 or kept[language] < 1:
                        others = " ".join(sorted(wrong))
                        score = f"{kept[language]:.2f} with a score of {LOWEST_SCORE}"
                        print(f"    {language:8} {rates[language]:.2f}, {score} {others}")


def labelled_texts(folder: Path, size: int) -> Iterator[tuple[str, str]]:
    """(language, text) of the messages of every locale."""
    messages: dict[str, list[str]] = defaultdict(list)
    for path in sorted((folder / "django").rglob("locale/*/LC_MESSAGES/*.mo")):
        locale = path.parts[-3]
        with open(path, "rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for source, message in catalog.items():
            plain = " ".join(_FILLED_IN.sub(" ", message).split())
            if source and plain and plain != source and " " in f"{plain}{source}":
                messages[SAME.get(locale, locale.partition("_")[0])].append(plain)
    for language, found in sorted(messages.items()):
        gathered, length = [], 0
        for message in dict.fromkeys(found):
            gathered.append(message)
            length += len(message) + 1
            if length >= size:
                yield language, " ".join(gathered)[: 2 * size]
                gathered, length = [], 0


def identifiers() -> dict[str, Callable[[str], tuple[str, float]]]:
    """Those that are here: a text → its language and a score."""
    found: dict[str, Callable[[str], tuple[str, float]]] = {"lid.176.ftz (ours)": partial(_ours, language_model())}
    try:
        found["pycld2"] = partial(_cld2, importlib.import_module("pycld2"))
        found["py3langid"] = partial(_langid, importlib.import_module("py3langid"))
    except ImportError as error:
        print(f"without {error.name}", file=sys.stderr)
    return found


def _ours(model: object, text: str) -> tuple[str, float]:
    language, score = identify(model, text, 500)
    return SAME.get(language, language), score


def _cld2(cld2: object, text: str) -> tuple[str, float]:
    _, _, details = cld2.detect(text, bestEffort=True)  # type: ignore[attr-defined]
    return SAME.get(details[0][1], details[0][1]), details[0][2] / 100


def _langid(langid: object, text: str) -> tuple[str, float]:
    language, score = langid.classify(text)  # type: ignore[attr-defined]
    return SAME.get(language, language), float(score)


def accuracy(answers: list[tuple[str, str]]) -> dict[str, float]:
    """The share of right answers, by language."""
    right: dict[str, list[bool]] = defaultdict(list)
    for language, answer in answers:
        right[language].append(language == answer)
    return {language: sum(each) / len(each) for language, each in right.items()}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
