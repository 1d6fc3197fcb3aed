"""data.format=labelled: a text and its label; data.format=tagged: words and their tags; data.format=seq2seq: pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from trainer.data.examples.faults import BAD_FIELDS, EMPTY_ANSWER, EMPTY_TEXT, ExampleFault
from trainer.data.tokens.manifest import LONGEST_LABEL

OUTSIDE = "O"
WORDS, TAGS = ("tokens", "words"), ("tags", "ner_tags", "pos_tags", "labels")
SOURCES, TARGETS = ("source", "prompt"), ("target", "completion")
JSON_BEGINS = re.compile(rb"\s*(\{|\[\s*[\{\]])")


def labelled_of(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A record as {"text", "label"}: the text is under `field`, the label a text, whole number, true or false."""
    text = record.get(field)
    if not isinstance(text, str) or "label" not in record:
        raise ExampleFault(BAD_FIELDS, f"no text in {field!r} and label in 'label', but {_fields(record)}")
    if not text.strip():
        raise ExampleFault(EMPTY_TEXT, "an empty text")
    return {"text": text, "label": label_of(record["label"])}


def tagged_of(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A record as {"words", "tags"}, as many of one as of the other."""
    words, tags = (_first(record, names) for names in (WORDS, TAGS))
    if not isinstance(words, list) or not isinstance(tags, list):
        raise ExampleFault(BAD_FIELDS, f"no lists in tokens and tags, but {_fields(record)}")
    if not words:
        raise ExampleFault(EMPTY_TEXT, "no words")
    if len(words) != len(tags):
        raise ExampleFault(BAD_FIELDS, f"{len(words):,} tokens and {len(tags):,} tags")
    for place, word in enumerate(words, start=1):
        if not isinstance(word, str) or not word.strip():
            raise ExampleFault(BAD_FIELDS, f"token {place} is no text")
    return {"words": words, "tags": [label_of(tag) for tag in tags]}


def seq2seq_of(record: Mapping[str, Any], field: str) -> dict[str, Any]:
    """A record as {"source", "target"}, texts; prompt and completion are other names for them."""
    source, target = (_first(record, names) for names in (SOURCES, TARGETS))
    if not isinstance(source, str) or not isinstance(target, str):
        raise ExampleFault(BAD_FIELDS, f"no texts in source and target, but {_fields(record)}")
    for text, name in ((source, "source"), (target, "target")):
        if not text.strip():
            raise ExampleFault(EMPTY_ANSWER if name == "target" else EMPTY_TEXT, f"an empty {name}")
    return {"source": source, "target": target}


def label_of(value: Any) -> str:
    """A label as text."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int) or not str(value).strip() or len(str(value)) > LONGEST_LABEL:
        raise ExampleFault(BAD_FIELDS, f"{str(value)[:40]!r} is no label: a text or whole number is")
    return str(value)


def labels_in(example: Mapping[str, Any]) -> list[str]:
    """The labels of a stored example."""
    return example["tags"] if "tags" in example else [example["label"]] if "label" in example else []


def unknown_label(example: Mapping[str, Any], allowed: Sequence[str]) -> str | None:
    """The first label of a stored example that isn't among those allowed, or None."""
    known = set(allowed)
    return next((label for label in labels_in(example) if label not in known), None)


def ordered_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Labels in the order of their numbers: what is outside of all first, then by number or alphabet."""
    found = set(names)
    if all(re.fullmatch(r"-?\d{1,18}", name) for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found, key=lambda name: (name != OUTSIDE, name)))


def sentences(lines: Iterable[bytes | None]) -> Iterator[dict[str, Any] | ExampleFault]:
    """The sentences of CoNLL columns: a word first and its tag last in each line, an empty line between sentences.

    What is wrong with one stands in its place. Lines of -DOCSTART- and comments of tab-separated files count not.
    """
    words: list[str] = []
    tags: list[str] = []
    fault: str | None = None
    for line in [*_decoded(lines), ""]:
        if line is None:
            fault = fault or "a line that is too long, or isn't UTF-8"
            continue
        columns = line.split("\t") if "\t" in line else line.split()
        if not line.strip() or columns[0] == "-DOCSTART-":
            if fault or words:
                yield ExampleFault(BAD_FIELDS, fault) if fault else {"tokens": words, "tags": tags}
            words, tags, fault = [], [], None
        elif line.startswith("# ") and "\t" not in line and len(columns) != 2:
            continue
        elif len(columns) < 2:
            fault = fault or f"the line {line[:40]!r} has no tag"
        else:
            words.append(columns[0].strip())
            tags.append(columns[-1].strip())


def _decoded(lines: Iterable[bytes | None]) -> Iterator[str | None]:
    for line in lines:
        try:
            yield None if line is None else line.decode("utf-8").rstrip("\r\n").removeprefix("\ufeff")
        except UnicodeDecodeError:
            yield None


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _fields(record: Mapping[str, Any]) -> str:
    return "the fields " + (", ".join(repr(name[:40]) for name in list(record)[:8]) or "none")
