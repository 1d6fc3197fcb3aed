"""Every rule's verdict equals datatrove's, on words that equal its words.

golden_verdicts.json holds what datatrove 0.10.1 said of documents.py's documents. It is written anew by
`python -m tests.data.clean.test_verdicts`, which needs tests/peers/datatrove.sh.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from launch.compose import compose
from tests.data.clean.documents import chinese_documents, english_documents
from trainer.config.clean import C4, C4Paragraphs, Clean
from trainer.data.clean.c4 import C4ParagraphsStage, C4Stage
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.stages import BUILD
from trainer.errors import InputError

HERE = Path(__file__).parent
GOLDEN = HERE / "golden_verdicts.json"
PEER = Path(tempfile.gettempdir()) / "banyan-peers" / "datatrove" / "bin" / "python"
REASONS = {  # datatrove's: ours
    "dup_para_frac": "duplicate_paragraphs",
    "dup_para_char_frac": "duplicate_paragraph_characters",
    "dup_line_frac": "duplicate_lines",
    "dup_line_char_frac": "duplicate_line_characters",
    **{f"top_{n}_gram": f"top_{n}_gram" for n in (2, 3, 4)},
    **{f"duplicated_{n}_n_grams": f"repeated_{n}_grams" for n in range(5, 11)},
    "gopher_short_doc": "words",
    "gopher_long_doc": "words",
    "gopher_below_avg_threshold": "word_length",
    "gopher_above_avg_threshold": "word_length",
    "gopher_too_many_hashes": "number_signs",
    "gopher_too_many_ellipsis": "ellipses",
    "gopher_too_many_bullets": "bullet_lines",
    "gopher_too_many_end_ellipsis": "ellipsis_lines",
    "gopher_below_alpha_threshold": "alphabetic_words",
    "gopher_enough_stop_words": "stop_words",
    "line_punct_ratio": "terminal_lines",
    "short_line_ratio": "short_lines",
    "char_dup_ratio": "duplicate_characters",
    "list_ratio": "newlines",
    "lorem_ipsum": "lorem_ipsum",
    "curly_bracket": "curly_brackets",
    "too_few_sentences": "sentences",
    "< 3 paragraphs": "lines",
}
EITHER = {"empty", "fails"}  # of a text without words or lines: rejected, whichever rule comes first


def documents() -> dict[str, list[str]]:
    return {
        "english": english_documents(450, seed=1) + english_documents(450, seed=3),
        "chinese": chinese_documents(100, seed=2),
    }


def more_documents() -> dict[str, list[str]]:
    files = sorted((HERE.parents[2] / "docs").glob("*.md")) + sorted(Path(os.__file__).parent.glob("a*.py"))[:8]
    texts = [path.read_text(encoding="utf-8")[:20_000] for path in files]
    return {"english": [*texts, *english_documents(200, seed=3)], "chinese": chinese_documents(100, seed=4)}


def ask_datatrove(texts: dict[str, list[str]]) -> dict[str, list[dict[str, str]]]:
    script = HERE / "datatrove_verdicts.py"
    done = subprocess.run([PEER, script], input=json.dumps(texts), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def clean_by(name: str) -> Clean:
    return compose("prepare", ["data.input=x", "data.output=y", f"clean={name}"]).data.clean


def our_verdicts(texts: list[str], language: str) -> list[dict[str, str]]:
    clean = Clean() if language == "english" else clean_by("fineweb2_zh")
    stages = {name: BUILD[name](clean) for name in ("gopher_repetition", "gopher_quality", "fineweb_quality")}
    if language == "english":
        stages["c4"], stages["c4_open_lines"] = C4Stage(C4()), C4Stage(C4(terminal_punctuation=False))
        stages["c4_paragraphs"] = C4ParagraphsStage(C4Paragraphs())
    found = []
    for text in texts:
        counted = Counted(text, clean.words)
        entry = {"words": digest("\n".join(counted.words.texts(text)))}
        for name, stage in stages.items():
            document = CleanedDocument(counted)
            verdict = stage(document)
            entry[name] = "" if verdict is None else verdict.rule.partition(".")[2]
            if name in ("c4", "c4_open_lines"):
                entry[f"{name}_text"] = digest(document.text)
        found.append(entry)
    return found


def differences(texts: dict[str, list[str]], peer: dict[str, list[dict[str, str]]]) -> list[str]:
    found = []
    for language, of_language in texts.items():
        ours = our_verdicts(of_language, language)
        assert len(peer[language]) == len(ours)
        for number, (theirs, own) in enumerate(zip(peer[language], ours, strict=True)):
            for name, reason in theirs.items():
                wanted = REASONS.get(reason, reason)
                if own[name] != wanted and not (reason in EITHER and own[name]):
                    found.append(f"{language} {number} {name}: {own[name]!r}, datatrove says {reason!r}")
    return found


@pytest.fixture(scope="module", autouse=True)
def libraries():
    pytest.importorskip("numba")
    pytest.importorskip("rjieba")


def test_verdicts_and_words_equal_what_datatrove_said():
    recorded = json.loads(GOLDEN.read_text())
    texts = documents()
    assert recorded["texts"] == digest(json.dumps(texts)), "documents.py makes other documents than were recorded"
    assert not differences(texts, recorded["verdicts"])


def test_the_recorded_verdicts_know_most_rules():
    """A rule that none of the documents breaks wouldn't be tested."""
    verdicts = json.loads(GOLDEN.read_text())["verdicts"]
    reasons = {reason for entries in verdicts.values() for entry in entries for reason in entry.values()}
    assert set(REASONS) - reasons <= {"gopher_long_doc", "gopher_below_avg_threshold"}


@pytest.mark.skipif(not PEER.exists(), reason="datatrove isn't installed: tests/peers/datatrove.sh")
def test_verdicts_and_words_equal_datatroves():
    texts = more_documents()
    assert not differences(texts, ask_datatrove(texts))


def test_a_missing_package_is_named_in_one_line(monkeypatch):
    from trainer.data.text import libraries

    def absent(module):
        raise ImportError(name=module)

    monkeypatch.setattr(libraries.importlib, "import_module", absent)
    with pytest.raises(InputError, match=r"needs the package rjieba, which is missing: pip install"):
        libraries.library("rjieba", "data.clean.words=chinese")


if __name__ == "__main__":
    content = {"texts": digest(json.dumps(documents())), "verdicts": ask_datatrove(documents())}
    GOLDEN.write_text(json.dumps(content, indent=0) + "\n")
