"""Stop sequences: an answer ends before the first of them, however its tokens cut the text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StopText:
    """Lets text through as far as no stop sequence can begin in it. `found`: one came, and nothing follows."""

    stops: tuple[str, ...] = ()
    found: bool = False
    _held: str = ""

    def feed(self, text: str) -> str:
        """What may be shown after some more text."""
        if self.found:
            return ""
        self._held += text
        places = [place for stop in self.stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self.stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """What was held back, now that nothing follows."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text might begin a stop sequence."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
