"""Sets to share: an output of prepare from two sources, of which one states its licence; and where they are pushed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.corpus import write_texts
from tests.prepared import prepare, write_jsonl
from trainer.config import TextSource
from trainer.data.share.shared_set import FILE
from trainer.data.tokens.manifest import read_manifest
from trainer.verbs.data import main


def make_output(folder: Path, *, seed: int = 0, **settings) -> Path:
    """An output of prepare with train and validation."""
    texts = write_texts(80, seed=seed)
    plain = write_jsonl(folder / "plain.jsonl", texts[:50])
    books = write_jsonl(folder / "books.jsonl", texts[50:])
    sources = {"books": TextSource(input=[str(books)], licence="CC0-1.0", language="en")}
    return prepare(plain, folder / "out", sources=sources, validation_fraction=0.1, **settings)


def files_in(folder: Path) -> dict[str, bytes]:
    """Contents by path."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("plan.json", None)
    return found


def fingerprint_of(output: Path) -> str:
    """Of an output of prepare, by which it is shared."""
    return read_manifest(output / "train").fingerprint


def push(output: Path, store: str | Path, *more: str) -> int:
    """The verb."""
    return main(["push", f"data.path={output}", f"data.store={store}", *more])


def pull(wanted: str, store: str | Path, output: Path, *more: str) -> int:
    """The verb."""
    return main(["pull", wanted, f"data.store={store}", f"data.output={output}", *more])


def listed(store: str | Path, capsys) -> list[dict]:
    """What `banyan data ls` says, for programs."""
    capsys.readouterr()
    main(["ls", f"data.store={store}", "format=json"])
    return json.loads(capsys.readouterr().out)


def change_record(place: Path, change) -> None:
    """Edits the set.json of a pushed set, as an enemy would."""
    record = json.loads((place / FILE).read_text())
    change(record)
    (place / FILE).write_text(json.dumps(record))


def copy_of(place: Path, to: Path) -> Path:
    """A store of one set, to break; the set's folder in it."""
    return shutil.copytree(place, to / place.name)
