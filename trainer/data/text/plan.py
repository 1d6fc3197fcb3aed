"""plan.json: what a folder is being, or was, prepared from. By it a restart knows that it may continue."""

from __future__ import annotations

import fcntl
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from trainer.config import Prepare
from trainer.config.knobs import deciding_values
from trainer.data.clean.identity import clean_identity
from trainer.data.examples.augment import augmentation_identity
from trainer.data.examples.template import read_template
from trainer.data.near.identity import near_identity
from trainer.data.text.sources import Source
from trainer.data.tokens.manifest import ModelRecord
from trainer.data.tokens.tokenizer import find_tokenizer, tokenizer_sha256
from trainer.errors import ConfigError, InputError
from trainer.machine.durable import make_folder, write_json
from trainer.machine.environment import as_stored
from trainer.machine.hub_name import local_folder
from trainer.machine.json_file import Malformed, from_json, read_json, shown

FILE = "plan.json"
LAYOUT = "layout.json"  # in PARTIAL: how the work is cut into items and stored
LAYOUT_VERSION = 2  # raise it when what is in PARTIAL is written otherwise
VERSION = 3  # raise it when the same settings and inputs would give other shards
SPLITS = ("train", "validation", "test")
PARTIAL = "partial"
MOST_BYTES = 2**30  # of plan.json, which names every input file


def deciding_settings(config: Prepare, models: Mapping[str, ModelRecord] | None = None) -> dict[str, Any]:
    """The settings that determine the shards, by key: those whose knobs say so, and the `models` that are asked."""
    settings = {
        "seed": config.seed,
        **deciding_values(config.data, "data."),
        **clean_identity(config.data.clean),
        **near_identity(config.data),
        **{f"data.{name}'s sha256": model.sha256 for name, model in (models or {}).items()},
        **augmentation_identity(config.data.augment),
        **({"Unicode": unicodedata.unidata_version} if config.data.repeated_paragraphs else {}),  # small letters
    }
    path = config.data.tokenizer.path
    if config.data.chat_template is not None:
        template = read_template(config.data.chat_template)
        settings["data.chat_template"] = xxhash.xxh3_128_hexdigest(template.encode())
    if path is None:
        settings.pop("data.tokenizer.end_of_text")
        return settings
    of_training = [key for key in settings if key.startswith("data.tokenizer.train.")]
    sha256 = tokenizer_sha256(find_tokenizer(local_folder(path)))
    return {key: settings[key] for key in settings if key not in of_training} | {"data.tokenizer.path's sha256": sha256}


@dataclass(frozen=True)
class PreparationPlan:
    """What determines the shards: the settings by their keys, and the input files' names, sizes and times."""

    settings: dict[str, Any]
    inputs: list[list[Any]]  # of [entry of data.input, name below it, bytes, modified_ns]

    @staticmethod
    def of(settings: dict[str, Any], sources: tuple[Source, ...]) -> PreparationPlan:
        """A plan over these sources."""
        inputs = [[source.given, source.name, source.bytes, source.modified_ns] for source in sources]
        return PreparationPlan(as_stored({"plan version": VERSION, **settings}), as_stored(inputs))


@dataclass(frozen=True)
class StoredPlan(PreparationPlan):
    """The content of plan.json."""

    finished: bool


def write_plan(folder: Path, plan: PreparationPlan, *, finished: bool) -> None:
    """Writes plan.json, durably, by way of the folder `partial`."""
    content = {"finished": finished, "settings": plan.settings, "inputs": plan.inputs}
    write_json(folder / FILE, content, scratch=folder / PARTIAL)


def read_progress(folder: Path, plan: PreparationPlan) -> str:
    """How far `folder` is with this plan: "new", "begun" or "finished". ConfigError if it holds something else."""
    mend = "choose another data.output, or remove that folder."
    try:
        stored = from_json(StoredPlan, read_json(folder / FILE, most_bytes=MOST_BYTES))
        before = _by_file(stored.inputs)
    except FileNotFoundError:
        for path in (*(folder / split for split in SPLITS), *(folder / PARTIAL).glob("*")):
            if path.exists() and path.suffix != ".tmp":  # a plan.json that was cut short
                if (folder / FILE).exists():  # written since, by another element of a job array
                    return read_progress(folder, plan)
                raise ConfigError(f"data.output={folder}: {path} wasn't made by this prepare: {mend}") from None
        return "new"
    except Malformed as error:
        raise ConfigError(f"{folder / FILE}: can't be read ({error}): {mend}") from error
    difference = _difference(stored.settings, plan.settings)
    if not difference and stored.inputs != plan.inputs:
        difference = _changed_input(before, _by_file(plan.inputs))
    if difference:
        raise ConfigError(f"data.output={folder} holds other data ({difference}): {mend}")
    return "finished" if stored.finished else "begun"


def read_plan(folder: Path) -> StoredPlan:
    """The plan of a finished output. InputError where there is none."""
    try:
        plan = from_json(StoredPlan, read_json(folder / FILE, most_bytes=MOST_BYTES))
    except (FileNotFoundError, Malformed) as error:
        raise InputError(f"{folder}: no finished output of prepare: its {FILE} can't be read ({error}).") from error
    if not plan.finished:
        raise InputError(f"{folder}: its prepare isn't finished; run it again to its end.")
    return plan


def _difference(stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    """The first setting that differs, as a phrase."""
    for key in (*wanted, *(key for key in stored if key not in wanted)):
        if stored.get(key) != wanted.get(key):
            return f"{key}={shown(stored.get(key))} then, {wanted.get(key)} now"
    return ""


def _by_file(inputs: list[list[Any]]) -> dict[tuple[str, str], list[Any]]:
    """Size and time of each input file, by what it was given as. Malformed where that can't be."""
    if any(len(file) != 4 or not all(isinstance(name, str) for name in file[:2]) for file in inputs):
        raise Malformed("inputs aren't lists of an input, a name, bytes and a time")
    return {(given, name): state for given, name, *state in inputs}


def _changed_input(before: dict[tuple[str, str], list[Any]], now: dict[tuple[str, str], list[Any]]) -> str:
    """The first input file that came, went or changed, as a phrase."""
    for given, name in now:
        if (given, name) not in before:
            return f"{name} of data.input={given} is new"
        if before[given, name] != now[given, name]:
            return f"{name} of data.input={given} has changed since"
    gone = next((key for key in before if key not in now), None)
    return f"{shown(gone[1])} of data.input={shown(gone[0])} is gone" if gone else "data.input is in another order"


def begin_partial(folder: Path, layout: dict[str, Any], *, alone: bool) -> None:
    """Makes PARTIAL ready: what was stored in another way, by another version, or not to its end, is removed.

    Not `alone`, another process may be writing there: then ConfigError if it is stored in another way.
    """
    partial = folder / PARTIAL
    path, wanted = partial / LAYOUT, {"version": LAYOUT_VERSION, **layout}
    try:
        found = read_json(path)
    except (FileNotFoundError, Malformed):
        found = None
    if found == wanted:
        for left in partial.glob("*.tmp") if alone else ():
            left.unlink(missing_ok=True)
        return
    if alone:
        shutil.rmtree(partial, ignore_errors=True)
        make_folder(partial)
    elif found is not None:
        raise ConfigError(f"{path}: another version of Banyan began there; remove {partial}, and start again.")
    write_json(path, wanted)


@contextmanager
def exclusive(folder: Path, *, shared: bool = False) -> Iterator[Callable[[], bool]]:
    """Keeps a second prepare out of `folder`, or with `shared` all but others that share it.

    The lock goes with the process, however that ends. Yields a function that says whether nobody else is there (any
    more); from then on nobody comes.
    """
    descriptor = os.open(folder, os.O_RDONLY)

    def lock(kind: int) -> bool:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system of several machines without locks: those that share need none
            if not shared:
                raise
            return kind == fcntl.LOCK_SH
        return True

    try:
        if not lock(fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
            raise ConfigError(f"data.output={folder}: another prepare is writing there; wait for it to end.")
        yield lambda: not shared or lock(fcntl.LOCK_EX)
    finally:
        os.close(descriptor)
