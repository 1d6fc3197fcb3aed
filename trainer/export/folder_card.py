"""The card of a Hugging Face folder that is written in another format: its own card, and what was done to it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import InputError
from trainer.export.model_card import LOADING, NOT_MEASURED, licence_fields
from trainer.machine.json_file import Malformed, read_regular
from trainer.report.data_card.markdown import fenced, plain

CARD = "README.md"
MOST_BYTES = 2**20
_FRONT = re.compile(r"\A---\r?\n(.*?)^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)


def card_of_folder(folder: Path, *, name: str, form: str, licence: str | None) -> str:
    """The whole file. Of how the model was made and what it can do it says what the folder's own card says."""
    front, own = _own_card(folder)
    fields: dict[str, Any] = {**front}
    if licence is not None:
        for key in ("license", "license_name", "license_link"):
            fields.pop(key, None)
        fields |= licence_fields(licence)
    fields["library_name"] = "gguf" if form == "gguf" else "transformers"
    tags = fields.get("tags")
    fields["tags"] = [*(tag for tag in (tags if isinstance(tags, list) else []) if tag != "banyan"), "banyan"]
    here = [
        "## This copy" if own else f"# {plain(name)}",
        f"Written by Banyan as {form}, from the Hugging Face folder {plain(name)}. "
        + (
            "What is above is of that folder."
            if own
            else f"It has no card: data, training and results are {NOT_MEASURED}."
        ),
        "DIR is this folder.",
        fenced(LOADING[form].replace("AUTO_CLASS", "AutoModelForCausalLM")).replace(
            "```text", "```sh" if form == "gguf" else "```python", 1
        ),
    ]
    dumped = yaml.safe_dump(fields, sort_keys=False, allow_unicode=False)
    return f"---\n{dumped}---\n\n" + "\n\n".join([*([own] if own else []), *here]) + "\n"


def _own_card(folder: Path) -> tuple[dict[str, Any], str]:
    """Front matter and text of the folder's card; nothing where it has none. InputError if it can't be read."""
    path = folder / CARD
    if not path.is_file():
        return {}, ""
    try:
        text = read_regular(path, most_bytes=MOST_BYTES).decode("utf-8")
        found = _FRONT.match(text)
        front = yaml.safe_load(found[1]) if found else {}
    except (OSError, Malformed, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error}); mend it, or take it away.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path}: its front matter is no YAML ({' '.join(str(error).split())[:200]}).") from error
    return (front if isinstance(front, dict) else {}), (text[found.end() :] if found else text).strip()
