"""Refuses descriptions of sources that can't be honoured, and licences that aren't allowed, before any file is read."""

from __future__ import annotations

import re
from fnmatch import fnmatch

from trainer.config import Data
from trainer.data.text.encodings import ENCODINGS
from trainer.data.text.formats import CODES, RECORDS
from trainer.data.text.reading import AUTO, Reading
from trainer.data.text.sources import Input
from trainer.errors import ConfigError, require

UNKNOWN = "unknown"  # the licence of a source that states none
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\r": "\r", r"\f": "\f", r"\\": "\\"}


def inputs_of(data: Data) -> list[Input]:
    """What prepare reads, data.input first and then data.sources in their order. ConfigError where that can't be."""
    encoding = _known_encoding(data.encoding)
    require(data.separator != "", "data.separator is empty: leave it out, or name what stands between documents.")
    base = Reading(
        text_field=data.text_field,
        most_bytes=data.most_document_bytes,
        format=CODES if data.format == "segments" else RECORDS if data.has_examples else data.format,
        separator=separator_of(data.separator),
        encoding=encoding,
        html=data.html,
    )
    _check_licence("data.input", data.licence, data.refuse_licences, used=bool(data.input))
    inputs = [Input(given, "data.input", base, data.licence) for given in data.input]
    for name, source in data.sources.items():
        key = f"data.sources.{name}"
        require(bool(source.input), f"{key}.input is empty: name files, folders, globs or URLs.")
        licence = data.licence if source.licence is None else source.licence
        _check_licence(key, licence, data.refuse_licences, used=True)
        reading = Reading(
            text_field=source.text_field or base.text_field,
            most_bytes=base.most_bytes,
            format=base.format if data.has_examples else source.format or base.format,
            separator=base.separator,
            encoding=base.encoding,
            html=base.html,
        )
        inputs += [Input(given, f"{key}.input", reading, licence) for given in source.input]
    return inputs


def _known_encoding(written: str) -> str:
    """An encoding as ENCODINGS has it, in whatever case and with _ or -."""
    names = {name.replace("_", "-"): name for name in (*ENCODINGS, AUTO)}
    encoding = names.get(written.lower().replace("_", "-"))
    if encoding is None:
        raise ConfigError(f"data.encoding={written}: not known; choose one of {', '.join(ENCODINGS)}, or {AUTO}.")
    return encoding


def separator_of(written: str | None) -> bytes:
    r"""The bytes that data.separator stands for, in which \n is a line feed, \t a tab and \\ a backslash."""
    if written is None:
        return b""
    text = re.sub(r"\\[ntrf\\]", lambda found: _ESCAPES[found[0]], written)
    return text.encode("utf-8", "surrogateescape")


def _check_licence(source: str, licence: str | None, refused: list[str], *, used: bool) -> None:
    stated = licence or UNKNOWN
    for pattern in refused if used else ():
        require(
            not fnmatch(stated.lower(), pattern.lower()),
            f"{source}: its licence is {stated}, which data.refuse_licences={pattern} refuses: "
            f"leave it out, or {'state its licence' if licence is None else 'allow the licence'}.",
        )
