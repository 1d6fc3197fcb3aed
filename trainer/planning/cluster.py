"""The devices that a plan is for: how many, how many on a node, and what each is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Data, Launch, Model
from trainer.config.launchers import LAUNCHERS
from trainer.config.plan import PlanSettings
from trainer.data.remote.fetching import Fetching
from trainer.data.text.remote import is_remote
from trainer.data.tokens.dataset import find_folder
from trainer.data.tokens.manifest import read_manifest
from trainer.planning.devices import Device, device_of
from trainer.planning.measured import NOTHING_MEASURED, RunMeasure

PER_NODE = 8
DEVICE = "h100"


@dataclass(frozen=True)
class Cluster:
    """So many devices, one for each rank, in nodes."""

    devices: int
    per_node: int
    device: Device
    measured: RunMeasure = NOTHING_MEASURED


def cluster_of(settings: PlanSettings, launch: Launch) -> Cluster:
    """What plan says, and where it doesn't, what launch asks for; of an elastic run, the most."""
    devices = settings.devices or LAUNCHERS[launch.name].ranks(launch)[1]
    per_node = settings.per_node or launch.gpus_per_node or PER_NODE
    name = settings.device or launch.device or DEVICE
    return Cluster(devices, per_node, device_of(name, settings, sharing=min(devices, per_node)))


def with_vocabulary(model: Model, data: Data) -> Model | None:
    """The model with model.vocab_size set, if need be by the training data's tokenizer; None if they aren't here."""
    if model.vocab_size is not None:
        return model
    given = data.path or next((entry.path for _, entry in sorted(data.train.items())), "")
    if is_remote(given):
        folder = find_folder(given, key="data.path", split="train", fetching=Fetching.of(data))
        return dataclasses.replace(model, vocab_size=read_manifest(folder).vocab_size)
    path = Path(given)
    for folder in (path, path / "train"):
        if (folder / "manifest.json").is_file():
            return dataclasses.replace(model, vocab_size=read_manifest(folder).vocab_size)
    return None
