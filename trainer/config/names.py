"""Names that become folders, jobs and W&B runs: one rule for all of them."""

from __future__ import annotations

import unicodedata

from trainer.errors import ConfigError

MOST_BYTES = 120  # of a name: with what is added, it stays below the 255 of a file's and the 128 of a W&B run's
_ALSO = "._-+=, "


def check_name(key: str, name: str) -> None:
    """Refuses a name that isn't of letters, digits, spaces and . _ - + = , alone; or that is too long."""
    begins = bool(name) and (_is_letter(name[0]) or name[0] == "_")
    fits = begins and name[-1] not in " ." and all(_is_letter(letter) or letter in _ALSO for letter in name)
    if not fits or len(name.encode()) > MOST_BYTES:
        shown = name if name.isprintable() else ascii(name)
        raise ConfigError(
            f"{key}={shown[:MOST_BYTES]}: becomes the name of folders, jobs and W&B runs: use letters, digits, spaces "
            f"and ._-+=, with a letter, a digit or _ at its beginning, in at most {MOST_BYTES} bytes."
        )


def as_name(text: str) -> str:
    """The name that is nearest to a text, such as a folder's; "custom" where nothing is left."""
    name = "".join(letter if _is_letter(letter) or letter in "._" else "-" for letter in text)
    while len(name.encode()) > MOST_BYTES // 2:
        name = name[:-1]
    return "-".join(part for part in name.strip("-.").split("-") if part) or "custom"


def _is_letter(letter: str) -> bool:
    """Letters, the marks on them, digits: of any script."""
    return unicodedata.category(letter)[0] in "LMN"
