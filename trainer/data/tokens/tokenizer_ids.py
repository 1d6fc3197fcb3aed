"""Whether two tokenizers give the same ids: all of them, or one all of the other's and some more after them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainer.data.tokens.tokenizer_file import read_tokenizer, rust_errors


def _parts(file: Path) -> tuple[Any, Any, Any, dict[int, str]]:
    """What of a tokenizer.json decides which ids a text gets, however the file was written."""
    from tokenizers import Tokenizer

    content = read_tokenizer(file)[0]
    with rust_errors(f"{file}: no tokenizer that `tokenizers` can read"):
        content = json.loads(Tokenizer.from_str(content).to_str())
    added = {token["id"]: token["content"] for token in content.get("added_tokens") or []}
    return content["model"], content.get("normalizer"), content.get("pre_tokenizer"), added


def vocabulary_size(file: Path) -> int:
    """One more than the largest id."""
    return max(read_tokenizer(file)[1].values()) + 1


def extends(file: Path, base: Path) -> bool:
    """Whether a tokenizer gives the ids of another, perhaps with added tokens whose ids follow all of those."""
    (*rules, added), (*base_rules, base_added) = _parts(file), _parts(base)
    known = vocabulary_size(base)
    more = {number: token for number, token in added.items() if base_added.get(number) != token}
    return rules == base_rules and base_added.keys() <= added.keys() and all(number >= known for number in more)
