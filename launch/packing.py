"""What objective=… means for data.packing, where it isn't typed; it wins over a verb's own default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.overrides import Override, unquoted
from trainer.data.text.remote import is_remote
from trainer.data.tokens.dataset import find_folder
from trainer.data.tokens.manifest import FILE, read_manifest

BY_OBJECTIVE = {"masked": "stream", "classify": "single", "tag": "single", "reward": "single"}
BY_OBJECTIVE |= {"dpo": "whole", "simpo": "whole", "orpo": "whole"}


def packing_from(overrides: Sequence[Override]) -> list[Override]:
    """data.packing by the objective; none where it is typed, or where the objective takes the verb's own.

    Of an encoder–decoder by its data, pairs or plain text; of distillation whole where the shards have the teacher's
    answers, which were given for each document alone.
    """
    given = {override.name: unquoted(override.value) for override in overrides if override.prefix != "~"}
    name = given.get("objective.name", given.get("objective", "causal"))
    if "data.packing" in given:
        return []
    if name == "seq2seq":
        return [Override("data.packing", "single" if _holds_pairs(given) else "stream")]
    if name == "distill" and given.get("objective.teacher", "null") == "null":
        return [] if given.get("objective.alpha") in ("0", "0.0") else [Override("data.packing", "whole")]
    return [Override("data.packing", BY_OBJECTIVE[name])] if name in BY_OBJECTIVE else []


def _holds_pairs(given: dict[str, str]) -> bool:
    paths = [value for key, value in given.items() if key == "data.path" or key.startswith("data.train.")]
    for path in paths:
        if is_remote(path):
            return read_manifest(find_folder(path, key="data.path", split="train")).has_targets
        for folder in (Path(path).expanduser(), Path(path).expanduser() / "train"):
            if path and (folder / FILE).is_file():
                return read_manifest(folder).has_targets
    return True
