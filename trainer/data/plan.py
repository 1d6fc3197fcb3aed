"""plan.json: what a folder is being, or was, prepared from. By it a restart knows that it may continue."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.data.sources import Source
from trainer.durable import write_json
from trainer.errors import ConfigError

FILE = "plan.json"
VERSION = 2  # raise it when the same settings and inputs would give other shards
SPLITS = ("train", "validation")
PARTIAL = "partial"


@dataclass(frozen=True)
class Plan:
    """What determines the shards: the settings by their keys, and the input files' names, sizes and times."""

    settings: dict[str, Any]
    inputs: list[list[Any]]

    @staticmethod
    def of(settings: dict[str, Any], sources: tuple[Source, ...]) -> Plan:
        """A plan over these sources."""
        inputs = [[source.given, source.name, source.bytes, source.modified_ns] for source in sources]
        return Plan({"plan version": VERSION, **settings}, inputs)


def write_plan(folder: Path, plan: Plan, *, finished: bool) -> None:
    """Writes plan.json, durably, by way of the folder `partial`."""
    content = {"finished": finished, "settings": plan.settings, "inputs": plan.inputs}
    write_json(folder / FILE, content, scratch=folder / PARTIAL)


def read_progress(folder: Path, plan: Plan) -> str:
    """How far `folder` is with this plan: "new", "begun" or "finished". ConfigError if it holds something else."""
    mend = "choose another data.output, or remove that folder."
    try:
        stored = json.loads((folder / FILE).read_text("utf-8"))
        settings, inputs, finished = stored["settings"], stored["inputs"], bool(stored["finished"])
    except FileNotFoundError:
        for path in (*(folder / split for split in SPLITS), *(folder / PARTIAL).glob("*")):
            if path.exists() and path.suffix != ".tmp":  # a plan.json that was cut short
                raise ConfigError(f"data.output={folder}: {path} wasn't made by this prepare: {mend}") from None
        return "new"
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder / FILE}: can't be read ({error}): {mend}") from error
    difference = _difference(settings, plan.settings) or _changed_input(inputs, plan.inputs)
    if difference:
        raise ConfigError(f"data.output={folder} holds other data ({difference}): {mend}")
    return "finished" if finished else "begun"


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first setting that differs, as a phrase."""
    for key in wanted:
        if stored.get(key) != wanted[key]:
            return f"{key}={stored.get(key)} then, {wanted[key]} now"
    return ""


def _changed_input(stored: list[list[Any]], wanted: list[list[Any]]) -> str:
    """The first input file that came, went or changed, as a phrase."""
    if stored == wanted:
        return ""
    before, now = ({(given, name): state for given, name, *state in inputs} for inputs in (stored, wanted))
    for given, name in now:
        if (given, name) not in before:
            return f"{name} of data.input={given} is new"
        if before[given, name] != now[given, name]:
            return f"{name} of data.input={given} has changed since"
    gone = next((key for key in before if key not in now), None)
    return f"{gone[1]} of data.input={gone[0]} is gone" if gone else "data.input is in another order"


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keeps a second prepare out of `folder`. The lock goes with the process, however that ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise ConfigError(f"data.output={folder}: another prepare is writing there; wait for it to end.") from error
    finally:
        os.close(descriptor)
