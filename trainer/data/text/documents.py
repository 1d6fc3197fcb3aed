"""A source → its documents, each UTF-8 and bounded in size, and records that hold none, each with a reason.

Each kind of source has a reader of its own in trainer/data/text/readers. A large source can be read in parts: the
records of all its parts, in order, are those of the source, each once.
"""

from __future__ import annotations

from collections.abc import Iterator

from trainer.data.text.readers import arrow, epub, html, json_lines, parquet, table, text, warc, webdataset, wikipedia
from trainer.data.text.readers.reader import Reader
from trainer.data.text.reading import WHOLE, Account, Part
from trainer.data.text.records import Record
from trainer.data.text.sources import Source

READERS: dict[str, Reader] = {
    "text": text.READER,
    "json": text.READER,  # lines of it, by their content
    "jsonl": json_lines.READER,
    "csv": table.READER,
    "tsv": table.READER,
    "parquet": parquet.READER,
    "arrow": arrow.READER,
    "tar": webdataset.READER,
    "warc": warc.READER,
    "wikipedia": wikipedia.READER,
    "html": html.READER,
    "epub": epub.READER,
}


def read_documents(source: Source, account: Account | None = None, part: Part = WHOLE) -> Iterator[Record]:
    """The records of a source, or those that begin in a part of it, numbered from its first one.

    A document is UTF-8, has more than white space and at most `data.most_document_bytes`; other records come as
    rejected. A broken file is refused by name; so is one of which no record has a text, where it is read whole.
    While a document is looked at, `account.url` is its address.
    """
    account = Account() if account is None else account
    for record in READERS[source.kind].read(source, part, account):
        yield record
        account.url = ""


def parts_of(source: Source, wanted_bytes: int, *, at_once: bool = False) -> list[Part]:
    """A source cut into parts of about `wanted_bytes`; [WHOLE] where it is smaller or can't be cut.

    With `at_once`, also where all of it would have to be read for that.
    """
    reader = READERS[source.kind]
    if reader.parts is None or source.bytes < 2 * wanted_bytes or (at_once and reader.parts_take_a_pass):
        return [WHOLE]
    return reader.parts(source, wanted_bytes)


def takes_a_pass(source: Source) -> bool:
    """Whether all of a source must be read to cut it."""
    return READERS[source.kind].parts_take_a_pass
