"""What decides which documents are near, beside the settings: Unicode's version, and the indices compared with."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from trainer.config.data import Data
from trainer.machine.sealing.plaintext import plaintext_sha256


def near_identity(data: Data) -> dict[str, Any]:
    """What else decides which documents are near: Unicode's version, and the indices that they are compared with."""
    if not data.near_duplicates:
        return {}
    found: dict[str, Any] = {"Unicode": unicodedata.unidata_version}
    for folder in data.near.against:
        for name in ("index.json", "keys"):
            path = Path(folder).expanduser() / "near_duplicates" / name
            found[f"{path}'s sha256"] = plaintext_sha256(path)
    return found
