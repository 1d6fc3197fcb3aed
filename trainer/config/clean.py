"""How prepare cleans: the stages in order, and the values of each. conf/clean/ has named choices (`clean=fineweb`).

A rule whose value is null is off. The values are those of the works that are named; docs/CLEANING.md tells them by
example.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from trainer.config.knobs import knob, part

STAGES = (
    "url_list",
    "mojibake",
    "unicode",
    "language",
    "ratios",
    "gopher_repetition",
    "gopher_quality",
    "c4",
    "c4_paragraphs",
    "fineweb_quality",
    "chinese_web",
    "code",
    "block_list",
    "perplexity",
    "classifier",
    "contamination",
    "personal",
)
CHANGING = ("mojibake", "unicode", "personal")  # stages that change texts and reject none
SPLITTERS = ("english", "chinese", "characters", "spaces")
PERSONAL_KINDS = ("email", "phone", "chinese_id", "ip", "card", "iban", "key")


def rule(default: Any, text: str, unit: str = "", **rules: Any) -> Any:
    """A value of cleaning: it decides what is prepared, and earlier versions don't have it."""
    return knob(default, text, unit, later=True, decides=True, **rules)


def limit(default: Any, text: str, unit: str = "", **rules: Any) -> Any:
    """A bound of a value that cleaning counts: `banyan data thresholds` tries others on what was counted."""
    return rule(default, text, unit, threshold=True, **rules)


@dataclass
class UrlList:
    """Addresses that a document may not come from, by files of one entry to a line; # begins a remark."""

    domains: list[str] = rule([], "Files of domains; each stands for all that is below it, too.")
    urls: list[str] = rule([], "Files of whole addresses.")
    words: list[str] = rule([], "Files of words of which an address may have none.")
    soft_words: list[str] = rule([], "Files of words of which an address may have few.")
    substrings: list[str] = rule([], "Files of runs of letters of which an address, without its marks, may have none.")
    highest_soft_words: int = limit(1, "Most different soft words in an address.", "words")


@dataclass
class Unicode:
    """One way of writing what can be written in several."""

    form: str = rule("NFC", "Unicode normal form.", choices=("NFC", "NFKC", "NFD", "NFKD"))
    control_characters: bool = rule(True, "Take out control characters other than tab and line ends.")


@dataclass
class Language:
    """The language, by fastText's lid.176.ftz on the first and the middle characters of a text."""

    keep: list[str] = rule(["en"], "Languages that stay, as ISO 639-1 codes.")
    lowest_score: float = limit(0.65, "Least score of the language.", high=1.0)
    characters: int = rule(500, "Characters that are looked at in each of two places.", "characters", low=1)


@dataclass
class Ratios:
    """Lengths and shares of kinds of characters; all are off by default."""

    lowest_characters: Optional[int] = limit(None, "Least length.", "characters")
    highest_characters: Optional[int] = limit(None, "Most length.", "characters")
    lowest_alphabetic: Optional[float] = limit(None, "Least share of characters that are letters.", high=1.0)
    highest_digits: Optional[float] = limit(None, "Most share of characters that are digits.", high=1.0)
    highest_uppercase: Optional[float] = limit(None, "Most share of characters that are capitals.", high=1.0)
    highest_symbols: Optional[float] = limit(
        None, "Most share of characters that are neither letters, digits nor white space.", high=1.0
    )
    highest_spaces: Optional[float] = limit(None, "Most share of characters that are white space.", high=1.0)
    lowest_han: Optional[float] = limit(None, "Least share of characters that are Chinese.", high=1.0)
    highest_longest_line: Optional[int] = limit(None, "Most length of a line.", "characters")


@dataclass
class GopherRepetition:
    """Gopher's repetition rules (Rae et al. 2021, table A1): most shares of a text."""

    duplicate_paragraphs: Optional[float] = limit(0.3, "Most share of paragraphs that came before.", high=1.0)
    duplicate_paragraph_characters: Optional[float] = limit(0.2, "Most share of characters in those.", high=1.0)
    duplicate_lines: Optional[float] = limit(0.3, "Most share of lines that came before.", high=1.0)
    duplicate_line_characters: Optional[float] = limit(0.2, "Most share of characters in those.", high=1.0)
    top_2_gram: Optional[float] = limit(0.2, "Most share of characters in the most frequent pair of words.")
    top_3_gram: Optional[float] = limit(0.18, "The same of three words.")
    top_4_gram: Optional[float] = limit(0.16, "The same of four words.")
    repeated_5_grams: Optional[float] = limit(0.15, "Most share of characters in five words that came before.")
    repeated_6_grams: Optional[float] = limit(0.14, "The same of six words.")
    repeated_7_grams: Optional[float] = limit(0.13, "The same of seven words.")
    repeated_8_grams: Optional[float] = limit(0.12, "The same of eight words.")
    repeated_9_grams: Optional[float] = limit(0.11, "The same of nine words.")
    repeated_10_grams: Optional[float] = limit(0.10, "The same of ten words.")


@dataclass
class GopherQuality:
    """Gopher's quality rules (Rae et al. 2021, appendix A1.1)."""

    lowest_words: Optional[int] = limit(50, "Least number of words that aren't punctuation alone.", "words")
    highest_words: Optional[int] = limit(100_000, "Most number of them.", "words")
    lowest_word_length: Optional[float] = limit(3, "Least mean length of them.", "characters")
    highest_word_length: Optional[float] = limit(10, "Most mean length of them.", "characters")
    highest_symbols: Optional[float] = limit(0.1, "Most number signs, and most ellipses, per word.")
    highest_bullet_lines: Optional[float] = limit(0.9, "Most share of lines that begin in • or -.", high=1.0)
    highest_ellipsis_lines: Optional[float] = limit(0.3, "Most share of lines that end in an ellipsis.", high=1.0)
    lowest_alphabetic_words: Optional[float] = limit(0.8, "Least share of words with a letter.", high=1.0)
    lowest_stop_words: Optional[int] = limit(2, "Least number of different stop words.", "words")
    stop_words: list[str] = rule(
        ["the", "be", "to", "of", "and", "that", "have", "with"], "Words of which any text has some."
    )


@dataclass
class C4:
    """C4's rules (Raffel et al. 2020, section 2.2): lines are taken out, and documents with few sentences left."""

    terminal_punctuation: bool = rule(True, "Take out lines that don't end in a full stop, ?, ! or a quote.")
    citations: bool = rule(True, "Take [1], [edit] and [citation needed] out of lines.")
    lowest_words: Optional[int] = rule(3, "Take out lines of fewer words.", "words")
    longest_word: Optional[int] = rule(1000, "Take out lines with a longer word.", "characters")
    javascript: bool = rule(True, "Take out lines that mention JavaScript.")
    policies: bool = rule(True, "Take out lines with a phrase of cookie policies and terms of use.")
    lorem_ipsum: bool = limit(True, "Reject documents with the phrase lorem ipsum.")
    curly_brackets: bool = limit(True, "Reject documents with a curly bracket.")
    lowest_sentences: Optional[int] = limit(5, "Least number of sentences that are left.", "sentences")


@dataclass
class C4Paragraphs:
    """mC4's rule: enough long lines (Xue et al. 2021)."""

    lines: int = limit(3, "Least number of lines that are long enough.", "lines", low=1)
    length: int = rule(200, "Least length of these.", "characters", low=1)


@dataclass
class FinewebQuality:
    """FineWeb's own rules (Penedo et al. 2024, section 3.5)."""

    lowest_terminal_lines: Optional[float] = limit(
        0.12, "Least share of lines whose last character ends a sentence.", high=1.0
    )
    highest_short_lines: Optional[float] = limit(0.67, "Most share of short lines.", high=1.0)
    short_line: int = rule(30, "Most length of a short line.", "characters")
    highest_duplicate_characters: Optional[float] = limit(
        0.01, "Most share of characters in lines that came before.", high=1.0
    )
    highest_newlines: Optional[float] = limit(0.3, "Most line feeds per word.")


@dataclass
class ChineseWeb:
    """ChineseWebText's rules (Chen et al. 2023, EvalWeb)."""

    lowest_characters: Optional[int] = limit(200, "Least length.", "characters")
    lowest_line_length: Optional[float] = limit(10, "Least mean length of lines that aren't blank.", "characters")
    lowest_han: Optional[float] = limit(0.3, "Least share of characters that are Chinese.", high=1.0)
    highest_traditional: Optional[float] = limit(
        0.5, "Most share of traditional characters among those that only one of the two scripts has.", high=1.0
    )
    sensitive_words: list[str] = rule([], "Files of sensitive words, one to a line.")
    highest_sensitive_words: Optional[float] = limit(0.5, "Most occurrences of these per line that isn't blank.")
    highest_repeated_grams: Optional[float] = limit(
        0.5, "Most share of runs of 13 characters that came before.", high=1.0
    )


@dataclass
class Code:
    """Rules for source code (Li et al. 2023, StarCoder, section 3)."""

    highest_line_length: Optional[int] = limit(1000, "Most length of a line.", "characters")
    highest_mean_line_length: Optional[float] = limit(100, "Most mean length of lines.", "characters")
    lowest_alphabetic: Optional[float] = limit(0.25, "Least share of characters that are letters.", high=1.0)
    generated: bool = limit(True, "Reject files whose first five lines say that they are generated.")


@dataclass
class BlockList:
    """Words that a document may not have, or not many of."""

    files: list[str] = rule([], "Files of words or phrases, one to a line.")
    whole_words: bool = rule(True, "Only between characters that aren't of words; not for scripts without blanks.")
    highest_matches: int = limit(0, "Most occurrences.", "matches")


@dataclass
class Perplexity:
    """How well a KenLM language model of good text foresees a text (Wenzek et al. 2020, CCNet)."""

    model: Optional[str] = rule(None, "A model of KenLM: .arpa or binary.")
    pieces: Optional[str] = rule(
        None, "The SentencePiece model whose pieces it counts; null: what is between white space."
    )
    ccnet: bool = rule(True, "First write text as CCNet does: small letters, no accents, digits as 0, marks in ASCII.")
    lowest: Optional[float] = limit(None, "Least perplexity.")
    highest: Optional[float] = limit(1000, "Most perplexity.")


@dataclass
class Classifier:
    """The probability of a label by a fastText model for classification, on the text in one line."""

    model: Optional[str] = rule(None, "A model of fastText: .bin or .ftz.")
    label: Optional[str] = rule(None, "The label, without __label__.")
    lowest: Optional[float] = limit(0.5, "Least probability of the label.", high=1.0)
    highest: Optional[float] = limit(None, "Most probability of the label.", high=1.0)


@dataclass
class Contamination:
    """Runs of words that evaluation sets have, too."""

    files: list[str] = rule([], "Evaluation sets: JSON lines (also .gz, .zst) of which all texts count, or text.")
    words: int = rule(13, "Length of a run.", "words", low=1)
    highest_share: float = limit(0.0, "Most share of a document's runs that an evaluation set has, too.", high=1.0)


@dataclass
class Personal:
    """Personal data and secrets, each kind masked by one placeholder, such as <email>."""

    kinds: list[str] = rule(list(PERSONAL_KINDS), "Kinds that are masked.")
    regions: list[str] = rule(["CN", "US"], "Regions whose phone numbers are known without +, as ISO 3166 codes.")


@dataclass
class Clean:
    """What is cleaned, in which order."""

    stages: list[str] = rule([], f"Stages in order, of {', '.join(STAGES)}.")
    words: str = rule("english", "What a word is to rules that count words.", choices=SPLITTERS)
    signals: bool = knob(
        False, "Keep all values that rules decide by, of rejected documents too; stages go on for that.", later=True
    )
    signals_from: Optional[str] = knob(
        None,
        "An output of the same input with signals: its values are judged by these thresholds, not counted again.",
        later=True,
    )
    rejected_bytes: int = knob(
        16 * 2**20, "Most text of rejected documents that is kept for each rule.", "bytes", later=True
    )
    url_list: UrlList = part(UrlList)
    unicode: Unicode = part(Unicode)
    language: Language = part(Language)
    ratios: Ratios = part(Ratios)
    gopher_repetition: GopherRepetition = part(GopherRepetition)
    gopher_quality: GopherQuality = part(GopherQuality)
    c4: C4 = part(C4)
    c4_paragraphs: C4Paragraphs = part(C4Paragraphs)
    fineweb_quality: FinewebQuality = part(FinewebQuality)
    chinese_web: ChineseWeb = part(ChineseWeb)
    code: Code = part(Code)
    block_list: BlockList = part(BlockList)
    perplexity: Perplexity = part(Perplexity)
    classifier: Classifier = part(Classifier)
    contamination: Contamination = part(Contamination)
    personal: Personal = part(Personal)
