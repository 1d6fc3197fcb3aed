"""What datatrove says of documents: run by its own Python (tests/peers/datatrove.sh), JSON in, JSON out.

    PYTHON tests/data/clean/datatrove_verdicts.py < documents.json > verdicts.json

In are {"english": [text…], "chinese": [text…]}; out for each text of each language, by filter, the reason or "" where
it stays; "words" is a hash of its words, and "c4_text" of what C4 leaves.
"""

import hashlib
import json
import sys

STOP_WORDS = [
    "的", "年", "在", "月", "是", "和", "日", "了", "於", "·", "為", "有", "被", "人", "中", "为", "他", "與",
    "後", "也", "而", "由",
]  # fmt: skip
TOP = ((2, 0.256), (3, 0.201), (4, 0.171))
REPEATED = ((5, 0.198), (6, 0.182), (7, 0.167), (8, 0.154), (9, 0.140), (10, 0.127))


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def filters(language):
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.filters.c4_filters import C4ParagraphFilter

    if language == "english":
        return {
            "gopher_repetition": GopherRepetitionFilter(),
            "gopher_quality": GopherQualityFilter(),
            "fineweb_quality": FineWebQualityFilter(),
            "c4": C4QualityFilter(),
            "c4_open_lines": C4QualityFilter(filter_no_terminal_punct=False),
            "c4_paragraphs": C4ParagraphFilter(),
        }
    zh = {"language": "cmn_Hani"}
    off = {"dup_para_frac": 0, "dup_para_char_frac": 0, "dup_line_char_frac": 0}
    return {
        "gopher_repetition": GopherRepetitionFilter(
            dup_line_frac=0.287, top_n_grams=TOP, dup_n_grams=REPEATED, **off, **zh
        ),
        "gopher_quality": GopherQualityFilter(
            min_avg_word_length=1,
            max_avg_word_length=5,
            max_non_alpha_words_ratio=0.735,
            stop_words=STOP_WORDS,
            **zh,
        ),
        "fineweb_quality": FineWebQualityFilter(
            line_punct_thr=0.106, short_line_thr=999, char_duplicates_ratio=0.1, new_line_ratio=0.178, **zh
        ),
    }


def verdicts(texts, language):
    from datatrove.data import Document
    from datatrove.utils.text import split_into_words

    found = []
    built = filters(language)
    for each in built.values():
        each.stat_update = lambda *_, **__: None
    for text in texts:
        entry = {"words": digest("\n".join(split_into_words(text, "eng" if language == "english" else "cmn_Hani")))}
        for name, each in built.items():
            document = Document(text=text, id="")
            try:
                verdict = each.filter(document)
            except (ZeroDivisionError, IndexError):  # a text without words or lines, which it doesn't foresee
                verdict = (False, "fails")
            entry[name] = "" if verdict is True else verdict[1] if isinstance(verdict, tuple) else "rejected"
            if name.startswith("c4") and name != "c4_paragraphs":
                entry[f"{name}_text"] = digest(document.text)
        found.append(entry)
    return found


if __name__ == "__main__":
    documents = json.load(sys.stdin)
    json.dump({language: verdicts(texts, language) for language, texts in documents.items()}, sys.stdout)
