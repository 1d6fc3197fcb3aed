"""Where the state of a run comes from at a start: a checkpoint, weights that exist, or the seed; and adapters' base."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from trainer.checkpoint.reader import CheckpointReader
from trainer.config import Model, Pretrain
from trainer.data.tokens.manifest import Manifest
from trainer.engine.assemble import Assembly
from trainer.engine.base_model import (
    CHECKPOINT,
    FILE,
    HF,
    PATH,
    Base,
    check_adapters,
    hash_weights,
    read_base,
    require_unchanged,
    with_adapters,
    write_base,
)
from trainer.engine.deepspeed import fragments
from trainer.engine.initial_weights import added_tokens, find_initial_weights, open_initial_weights, seeded_weights
from trainer.errors import ConfigError, InputError
from trainer.model.adapters import adapted_shapes, base_name
from trainer.model.hugging_face.vocabulary import vocabulary_of
from trainer.model.region import Region, Source
from trainer.ranks.mesh import Mesh


@dataclass(frozen=True)
class RunWeights:
    """The parameters of the module that is trained, by shape, and what they begin with; `base` fills what stays.

    `trained` are the parameters that checkpoints hold.
    """

    shapes: dict[str, tuple[int, ...]]
    trained: dict[str, tuple[int, ...]]
    held: Source
    base: Source | None = None

    def restore(self, assembly: Assembly, *, steps: int) -> None:
        """Sets weights and moments of a model that was assembled with these shapes."""
        fragments.restore(assembly.engine, assembly.partition, self.held, steps=steps)
        if self.base is not None:
            fragments.restore_base(assembly.engine, assembly.partition, self.base)


def open_run_weights(
    config: Pretrain,
    model: Model,
    shapes: dict[str, tuple[int, ...]],
    manifest: Manifest,
    reader: CheckpointReader | None,
    run_dir: Path,
    mesh: Mesh,
) -> RunWeights:
    """What a start begins with; `shapes` are those of the model without adapters. Every rank calls it."""
    length = config.data.sequence_length
    if config.adapt.name == "lora":
        return _with_base(config, model, shapes, manifest, reader, run_dir, mesh)
    if reader is not None:
        return RunWeights(shapes, shapes, reader.read)
    initial = open_initial_weights(config.model, manifest, shapes, mesh, sequence_length=length, seed=config.seed)
    return RunWeights(shapes, shapes, initial or seeded_weights(model, config.seed))


def _pinned(run_dir: Path, reader: CheckpointReader, mesh: Mesh) -> Base:
    """The base of the run that goes on, or is forked. InputError where its base.json is gone."""

    def find() -> dict[str, Any]:
        base = read_base(run_dir) or read_base(reader.folder.resolve().parent.parent)
        if base is None:
            raise InputError(f"{run_dir / FILE}: missing, so that the adapters' base isn't known; restore that file.")
        return asdict(base)

    return Base(**mesh.main_finds(find))


def _with_base(
    config: Pretrain,
    model: Model,
    shapes: dict[str, tuple[int, ...]],
    manifest: Manifest,
    reader: CheckpointReader | None,
    run_dir: Path,
    mesh: Mesh,
) -> RunWeights:
    adapted, names = adapted_shapes(model, config.adapt)
    pinned = None if reader is None else _pinned(run_dir, reader, mesh)
    source = config.model
    if pinned is not None and pinned.kind != PATH:
        source = replace(source, init_from=pinned.folder)
    found = find_initial_weights(source, manifest, shapes, mesh, sequence_length=config.data.sequence_length)
    if found is None:
        raise ConfigError("adapt=lora: model.path holds no weights, beside which adapters could be; give it some.")
    weights, folder, place = found
    if pinned is not None:
        mesh.main_finds(lambda: require_unchanged(pinned, run_dir))
        mesh.main_finds(lambda: write_base(run_dir, pinned))  # of a run that is forked, too
    else:
        kind = PATH if source.path is not None else HF if folder.kind == "hf" else CHECKPOINT
        added = added_tokens(folder, manifest)
        base = Base(
            kind=kind,
            folder=str(place),
            sha256=mesh.from_main(hash_weights(place, kind) if mesh.is_main else ""),
            vocab_size=int(folder.architecture.get("vocab_size") or 0) or vocabulary_of(source),
            known=added.start if added else 0,
            tokens=added.stop if added else 0,
            overrides=dict(source.overrides),
        )
        mesh.main_finds(lambda: write_base(run_dir, base))
    trained = {name: adapted[name] for name in names}
    if reader is not None:
        check_adapters(reader.shapes, config.adapt)

    def of_base(name: str, kind: str, region: Region) -> Tensor:
        return weights(base_name(name), kind, region)

    held = with_adapters(weights, adapted, reader.read if reader is not None else None, seed=config.seed)
    return RunWeights(adapted, trained, held, of_base)
