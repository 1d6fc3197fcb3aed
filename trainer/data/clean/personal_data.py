"""The stage that masks personal data: every kind by one placeholder, whatever else is in the text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from trainer.config.clean import Personal
from trainer.data.clean.document import CleanedDocument, Verdict
from trainer.data.clean.personal import card, chinese_id, email, iban, ip, key, phone
from trainer.data.clean.personal.clues import Clues, find_clues
from trainer.data.clean.personal.span import Span

Find = Callable[[str, Clues], Iterable[Span]]

# Where two kinds begin at one place and are as long, the first stands.
KINDS = {"key": key, "email": email, "iban": iban, "chinese_id": chinese_id, "card": card, "ip": ip, "phone": phone}


class PersonalStage:
    """Masks; rejects nothing."""

    def __init__(self, settings: Personal) -> None:
        self._find: dict[str, Find] = {
            kind: partial(phone.find, regions=settings.regions) if kind == "phone" else module.find
            for kind, module in KINDS.items()
            if kind in settings.kinds
        }

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """Changes the text, and counts each kind."""
        text = document.text
        clues = find_clues(document.counted.points)
        spans = [(span, kind) for kind, find in self._find.items() for span in find(text, clues)]
        if not spans:
            return None
        pieces, place = [], 0
        for span, kind in without_overlaps(spans):
            pieces += [text[place : span.start], KINDS[kind].PLACEHOLDER]
            place = span.stop
            document.changes[f"personal: {kind} masked"] += 1
        document.change("".join([*pieces, text[place:]]), "personal: documents masked")
        return None


def without_overlaps(spans: list[tuple[Span, str]]) -> Iterator[tuple[Span, str]]:
    """Spans from left to right: of those that overlap the one that begins first, then the longest."""
    end = 0
    for span, kind in sorted(spans, key=lambda found: (found[0].start, -found[0].stop)):
        if span.start >= end:
            yield span, kind
            end = span.stop
