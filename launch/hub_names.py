"""Keys that may name a model on the Hugging Face Hub: they are pinned to a commit before anything looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.overrides import Override, unquoted
from trainer.config.stored import load_values
from trainer.machine.hub import pin
from trainer.machine.hub_name import is_hub_name, parse_hub_name

KEYS = (
    *("model.path", "model.init_from", "objective.teacher"),
    *("data.tokenizer.path", "data.reference", "data.teacher", "path"),
)
ALLOW = "run.allow_download"


def pinned_names(overrides: Sequence[Override]) -> list[Override]:
    """Overrides that pin each name to a commit, whose files are here then: fetched if run.allow_download says so.

    A run that goes on keeps the commit that it was begun with, which is in its configuration.
    """
    given = {override.name: unquoted(override.value) for override in overrides if override.prefix != "~"}
    asked = {key: given[key] for key in KEYS if is_hub_name(given.get(key))}
    if not asked:
        return []
    allowed = given.get(ALLOW, "false").lower() in ("true", "yes", "on", "1")
    stored = _stored(given)
    found = []
    for key, text in asked.items():
        name, before = parse_hub_name(text, key), stored.get(key)
        if before is not None and not name.is_pinned and parse_hub_name(before, key).repository == name.repository:
            found.append(Override(key, before))
            continue
        pinned = pin(text, key, allowed=allowed, tokenizer_only=key == "data.tokenizer.path")
        found.append(Override(key, str(pinned)))
    return found


def _stored(given: dict[str, str]) -> dict[str, str]:
    """The names in the configuration of the run that this command goes on with, by key."""
    run_dir = Path(given.get("run.dir") or Path("runs") / given.get("run.name", "-"))
    if not (run_dir / "config.yaml").is_file():
        return {}
    model = load_values(run_dir / "config.yaml").get("model")
    values = {f"model.{key}": value for key, value in model.items()} if isinstance(model, dict) else {}
    return {
        key: value for key, value in values.items() if key in KEYS and isinstance(value, str) and is_hub_name(value)
    }
