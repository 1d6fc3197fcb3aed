"""state.json: where the run stood that saved, and how it was configured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from trainer.checkpoint.complete import STATE
from trainer.checkpoint.folders import step_of
from trainer.checkpoint.malformed import explained
from trainer.errors import InputError
from trainer.machine.json_file import Count, Malformed, Positive, Sha256, Within, from_known, read_json, shown

FORMAT = 2
READABLE = (1, FORMAT)


@dataclass(frozen=True)
class Shape:
    """Of the shape of the run that saved, what people are told."""

    world_size: Positive
    zero_stage: Annotated[int, Within(0, 3)]
    tensor: Positive = 1
    sequence: Positive = 1
    expert: Positive = 1


@dataclass(frozen=True)
class Sections:
    """Of the configuration of the run that saved, what a reader relies on."""

    train: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    checkpoint: dict[str, Any]


@dataclass(frozen=True)
class State:
    """The content of state.json. `progress`, `history`: read by their own classes."""

    step: Count
    position: Count
    tokens: Count
    progress: dict[str, Any]
    shape: dict[str, Any]
    config: dict[str, Any]
    history: dict[str, Any]
    tokenizer_sha256: Sha256
    time: Annotated[float, Within(0, 2**40)]


def read_state(folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's state.json, its fields checked. InputError where that can't be."""
    return check_state(read_object(folder), folder)


def check_state(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What read_object returned, its fields checked. InputError where that can't be."""
    with explained(folder / STATE):
        state = from_known(State, content)
        from_known(Shape, state.shape)
        sections = from_known(Sections, state.config)
        for section, key in ((sections.train, "precision"), (sections.model, "name")):
            if not (isinstance(section.get(key), str) and section[key].isprintable()):
                raise Malformed(f"config: {key} is no text in a line")
        if step_of(folder.name) not in (None, state.step):
            raise Malformed(f"it is of step {state.step}")
    return content


def read_object(folder: Path) -> dict[str, Any]:
    """state.json of a checkpoint, an object of a known format, whose other fields aren't checked yet. InputError."""
    path = folder / STATE
    with explained(path):
        content = read_json(path)
        if not isinstance(content, dict):
            raise Malformed("no object")
    version = content.get("format")
    if type(version) is not int or version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise InputError(f"{folder}: format {shown(version)}; this version reads {known}.")
    return content
