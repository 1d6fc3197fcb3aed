"""Refuses what can't be done with examples, such as chats: what reads, cleans or compares texts."""

from __future__ import annotations

import dataclasses

from trainer.config.data import EXAMPLES, Augment, Data
from trainer.config.modalities import check_modalities
from trainer.errors import require


def check_examples(data: Data) -> None:
    """Refuses, in one line, settings that are for text where data.format names examples, and examples among text."""
    _check_models(data)
    check_modalities(data.modalities)
    require(
        bool(data.modalities) == (data.format == "segments"),
        "data.format=segments and data.modalities go together: give both, or neither.",
    )
    for field in dataclasses.fields(Augment):
        value = getattr(data.augment, field.name)
        require(
            data.augment.copies > 0 or value == field.default,
            f"data.augment.{field.name}={value} does nothing where data.augment.copies is 0: set that to 1 or more, or "
            "leave it out.",
        )
    if not data.has_examples:
        for key, given in (("data.labels", bool(data.labels)), ("data.augment.copies", data.augment.copies > 0)):
            require(
                not given, f"{key} is for data.format=labelled{' or tagged' * (key == 'data.labels')}: leave it out."
            )
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
        data.augment.copies == 0 or data.format == "labelled",
        f"data.augment.copies={data.augment.copies} with {examples}: words that are left out or swapped would change "
        "what is learnt of it; it is for data.format=labelled.",
    )
    require(
        not data.labels or data.format in ("labelled", "tagged"),
        f"data.labels is for labelled or tagged data, not for {examples}: leave it out.",
    )
    require(len(set(data.labels)) == len(data.labels), "data.labels names a label twice: each has one number.")
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
    require(data.separator is None, f"data.separator is for text, not for {examples}: leave it out.")
    require(
        data.encoding.lower().replace("_", "-") == "utf-8",
        f"data.encoding={data.encoding} is for text: {examples} is read as UTF-8; convert it.",
    )


def _check_models(data: Data) -> None:
    """Refuses a reference of what are no pairs, and a teacher of pairs."""
    require(
        data.reference is None or data.format == "preference",
        f"data.reference={data.reference}: a reference's log-probabilities are of pairs of answers; set "
        "data.format=preference, or leave it out.",
    )
    require(
        data.teacher is None or data.format != "preference",
        f"data.teacher={data.teacher} with data.format=preference: pairs aren't distilled; leave it out.",
    )
