"""What prepare asks of its settings before it looks at a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainer.config import Data, Prepare, TextSource
from trainer.config.values import check_values
from trainer.data.text.file_names import as_utf8
from trainer.data.tokens.tokenizer import SMALLEST_VOCABULARY
from trainer.errors import require
from trainer.rules.clean import check_clean, check_near
from trainer.rules.examples import check_examples
from trainer.rules.revision import check_revision


def check_prepare(config: Prepare) -> Path:
    """Refuses a configuration that can't work; returns the output folder."""
    check_values(config)
    data = config.data
    check_clean(data.clean)
    check_near(data)
    check_revision(data)
    check_examples(data)
    require(
        bool(data.input or data.sources),
        "data.input is empty: name files, folders, globs or URLs, or use data=stdlib for Python's library.",
    )
    require(bool(data.output), "data.output is not set: name the folder that prepare shall write train/ and so on to.")
    require(
        data.tokenizer.path is not None or data.tokenizer.end_of_text is None,
        "data.tokenizer.end_of_text is for a loaded tokenizer: set data.tokenizer.path too, or leave it out.",
    )
    require(
        data.tokenizer.path is not None or data.tokenizer.train.vocab_size >= SMALLEST_VOCABULARY,
        f"data.tokenizer.train.vocab_size={data.tokenizer.train.vocab_size}: at least {SMALLEST_VOCABULARY} "
        "(256 bytes and the end-of-text token).",
    )
    output = Path(str(data.output)).expanduser()
    standing = next((place for place in (output, *output.parents) if place.exists()), Path())
    require(standing.is_dir(), f"data.output={output}: {standing} is a file; choose a folder.")
    return output


def in_utf8(data: Data) -> Data:
    """The section with those texts of it that name no file as UTF-8, in any locale."""
    licence = None if data.licence is None else as_utf8(data.licence)
    language = None if data.language is None else as_utf8(data.language)
    sources = {name: _source_in_utf8(source) for name, source in data.sources.items()}
    return replace(
        data,
        name=as_utf8(data.name),
        text_field=as_utf8(data.text_field),
        licence=licence,
        language=language,
        sources=sources,
    )


def _source_in_utf8(source: TextSource) -> TextSource:
    def in_utf8(text: str | None) -> str | None:
        return None if text is None else as_utf8(text)

    return replace(
        source,
        licence=in_utf8(source.licence),
        language=in_utf8(source.language),
        text_field=in_utf8(source.text_field),
    )
