"""What was stated of a dataset's sources when it was prepared: names and languages."""

from __future__ import annotations

from typing import Any

from trainer.data.tokens.manifest import Manifest, SourceGroup

SOURCES = "data.sources"  # settings of prepare
LANGUAGE = "data.language"


def stated_language(manifest: Manifest, group: SourceGroup) -> str | None:
    """The language that was stated of an input, or of all."""
    stated = [*(entry.get("language") for _, entry in _entries(manifest, group)), manifest.prepared.get(LANGUAGE)]
    return next((language for language in stated if isinstance(language, str) and language), None)


def stated_name(manifest: Manifest, group: SourceGroup) -> str | None:
    """The name under which an input is in data.sources."""
    return next((name for name, _ in _entries(manifest, group)), None)


def _entries(manifest: Manifest, group: SourceGroup) -> list[tuple[str, dict[str, Any]]]:
    described = manifest.prepared.get(SOURCES)
    return [
        (str(name), entry)
        for name, entry in (described.items() if isinstance(described, dict) else ())
        if isinstance(entry, dict) and isinstance(entry.get("input"), list) and group.input in entry["input"]
    ]
