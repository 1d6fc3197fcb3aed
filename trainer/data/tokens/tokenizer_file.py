"""A tokenizer.json from anywhere: checked before anything is done by it. `tokenizers` panics or swells over some."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.machine.sealing.plaintext import read_plaintext

MOST_BYTES = 2**27  # of a tokenizer.json; the largest known have 35 MB
MOST_IDS = 2**24
MOST_UNUSED_IDS = 2**16  # beyond as many as are used: each costs a row of the embedding
_STDERR = threading.RLock()
MOST_GROWTH = 1000  # characters that a normaliser or decoder may make of one


def read_tokenizer(file: Path) -> tuple[str, dict[str, int]]:
    """A tokenizer.json's text, and its tokens with their ids. InputError unless they are sane."""
    content = read_text(file)
    with rust_errors(f"{file}: no tokenizer that `tokenizers` can read"):
        loaded = json.loads(content)
    if not isinstance(loaded, dict) or not isinstance(loaded.get("model"), dict):
        raise InputError(f"{file}: no tokenizer: it has no model; give the tokenizer.json that `tokenizers` writes.")
    with rust_errors(f"{file}: no tokenizer that `tokenizers` can read"):
        ids = _ids_of(loaded)
        growth = max(_growth(loaded.get("normalizer")), _growth(loaded.get("decoder")))
    _check_ids(file, ids)
    if growth > MOST_GROWTH:
        raise InputError(f"{file}: its normalizer or decoder makes {growth:,} characters of one; mend it.")
    return content, ids


def read_text(file: Path) -> str:
    """The text of a file of a tokenizer. InputError if it is too large or isn't UTF-8."""
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise InputError(f"{file}: {size:,} bytes: no tokenizer is larger than {MOST_BYTES:,}; give its file.")
    with rust_errors(f"{file}: no tokenizer that `tokenizers` can read"):
        return read_plaintext(file).decode("utf-8")


@contextmanager
def rust_errors(problem: str) -> Iterator[None]:
    """Turns what `tokenizers` raises into an InputError that begins with `problem`; it raises plain Exception.

    A panic of its Rust code is no Exception, and prints a backtrace, which is kept back.
    """
    try:
        with quiet():
            yield
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise InputError(f"{problem} ({first_line(error)}).") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Sends file descriptor 2 nowhere, for one thread at a time; where no other is to be had, it is left alone."""
    with _STDERR, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            former = os.dup(2)
            stack.callback(os.close, former)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            stack.callback(os.close, nowhere)
            os.dup2(nowhere, 2)
            stack.callback(os.dup2, former, 2)
        yield


def first_line(error: BaseException) -> str:
    """What an error says, in one line of bounded length."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _ids_of(loaded: dict[str, Any]) -> dict[str, int]:
    vocabulary, added = loaded["model"].get("vocab") or {}, loaded.get("added_tokens") or []
    if isinstance(vocabulary, list):  # Unigram: pieces with their scores
        ids = {str(piece): number for number, (piece, _) in enumerate(vocabulary)}
    else:
        ids = dict(vocabulary)
    return ids | {token["content"]: token["id"] for token in added}


def _check_ids(file: Path, ids: dict[str, int]) -> None:
    for token, number in ids.items():
        if type(number) is not int or not 0 <= number < MOST_IDS:
            raise InputError(f"{file}: the token {token[:40]!r} has the id {str(number)[:40]}; write the file anew.")
    if not ids:
        raise InputError(f"{file}: its vocabulary is empty; fetch or write it again.")
    if max(ids.values()) >= 2 * len(ids) + MOST_UNUSED_IDS:
        raise InputError(
            f"{file}: {len(ids):,} tokens have ids up to {max(ids.values()):,}: a model would need a row for each; "
            "number them anew."
        )


def _growth(step: Any) -> int:
    """The most characters that a normaliser or decoder, as in tokenizer.json, makes of one by replacing or adding."""
    if not isinstance(step, dict):
        return 1
    growth = 1
    for inner in (*(step.get("normalizers") or ()), *(step.get("decoders") or ())):
        growth *= _growth(inner)
    if step.get("type") == "Replace":
        pattern = step["pattern"].get("String") or ""
        growth *= max(1, -(-len(step["content"]) // max(1, len(pattern))))
    added = max(
        (len(step[key]) for key in ("prepend", "prefix", "suffix") if isinstance(step.get(key), str)), default=0
    )
    return growth * (1 + added)
