"""Whether and where a run goes on: the newest whole checkpoint, and what may differ from it."""

from __future__ import annotations

from pathlib import Path

from trainer.config import Pretrain, resolved
from trainer.data.dataset import Dataset, weights_of
from trainer.data.history import History
from trainer.data.order import extend, mixture_of
from trainer.engine.checkpoint import CheckpointReader, find_newest
from trainer.engine.mesh import Mesh
from trainer.errors import ConfigError
from trainer.run_directory import check_change


def find_resume(run_dir: Path, config: Pretrain, mesh: Mesh, training: list[Dataset]) -> CheckpointReader | None:
    """The newest whole checkpoint of the run, opened, or None before the first.

    ConfigError if this configuration or these data may not go on from it. Says what is skipped and what changed.
    """
    folder, broken = find_newest(run_dir, mesh)
    if folder is None:
        return None
    reader = CheckpointReader(folder)
    changes = check_change(reader.state["config"], resolved(config), allow=config.run.allow_change)
    check_data(reader, config, training)
    if mesh.is_main:
        for line in broken:
            print(f"banyan: {line}", flush=True)
        for line in changes:
            print(f"changed since {folder.name}: {line}", flush=True)
    return reader


def check_data(reader: CheckpointReader, config: Pretrain, training: list[Dataset]) -> None:
    """Refuses another tokenizer; and other data or weights unless run.allow_change opens a new segment for them."""
    manifest = training[0].manifest
    if reader.state["tokenizer_sha256"] != manifest.tokenizer_sha256:
        raise ConfigError(
            f"{manifest.folder}: written with another tokenizer than the run's; prepare it with "
            f"data.tokenizer.path={reader.folder.parent.parent / 'tokenizer'}, or begin another run with run.name."
        )
    history = History.from_json(reader.state["history"])
    now = extend([], first=0, rows=[dataset.rows for dataset in training], weights=weights_of(config.data))
    if mixture_of(now[0]) != mixture_of(history.segments[-1]) and not config.run.allow_change:
        raise ConfigError(
            "the training data or their weights aren't the checkpoint's (fingerprints or shares differ): mend "
            "data.path or data.train, or set run.allow_change=true to go on with the new ones from here."
        )
