"""Refuses what can't be done with examples, such as chats: what reads, cleans or compares texts."""

from __future__ import annotations

from trainer.config.data import EXAMPLES, Data
from trainer.errors import require


def check_examples(data: Data) -> None:
    """Refuses, in one line, settings that are for text where data.format names examples, and examples among text."""
    if not data.has_examples:
        for name, source in data.sources.items():
            require(
                source.format not in EXAMPLES,
                f"data.sources.{name}.format={source.format}: examples aren't mixed with text; prepare them alone, "
                f"with data.format={source.format}.",
            )
        return
    examples = f"data.format={data.format}"
    for name, source in data.sources.items():
        require(
            source.format in (None, data.format),
            f"data.sources.{name}.format={source.format} doesn't go with {examples}, which all of the input must be; "
            "leave it out.",
        )
    require(
        not data.clean.stages,
        f"data.clean.stages is for text, not for {examples}: leave it out, and clean the records before.",
    )
    require(
        not data.near_duplicates,
        f"data.near_duplicates=true is for text, not for {examples}: leave it out; equal examples are found anyway.",
    )
    require(
        not data.repeated_paragraphs,
        f"data.repeated_paragraphs=true is for text, not for {examples}: leave it out.",
    )
    require(data.separator is None, f"data.separator is for text, not for {examples}, which is JSON: leave it out.")
    require(
        data.encoding.lower().replace("_", "-") == "utf-8",
        f"data.encoding={data.encoding} is for text: {examples} is JSON, which is UTF-8; convert it.",
    )
