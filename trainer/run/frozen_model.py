"""A model that is asked and not trained, the reference of preferences or a teacher: a run, a checkpoint or a folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.config import AUTO, Pretrain
from trainer.config.plain_values import with_values
from trainer.data.tokens.manifest import Manifest, ModelRecord
from trainer.data.tokens.tokenizer import tokenizer_sha256
from trainer.data.tokens.tokenizer_ids import extends, vocabulary_size
from trainer.engine.base_model import CHECKPOINT, HF, hash_weights
from trainer.engine.bf16 import autocast
from trainer.errors import ConfigError, InputError
from trainer.evaluate.folder_model import context_of, head_of, load_folder
from trainer.evaluate.trained_model import load_model
from trainer.machine.hub_name import local_folder
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.heads import CAUSAL, HEADS
from trainer.objective.build import members_of
from trainer.objective.distill import TEACHER
from trainer.objective.pairs import REFERENCE
from trainer.ranks.mesh import Mesh
from trainer.run.directory import read_config


@dataclass(frozen=True)
class FrozenModel:
    """Where a model is: `key` is what named it, `kind` that of `folder`, base_model's HF or CHECKPOINT.

    `window` is how many tokens it sees.
    """

    key: str
    given: str
    folder: Path
    kind: str
    tokenizer: Path
    window: int

    @cached_property
    def sha256(self) -> str:
        """Of its weights, which are read for it."""
        return hash_weights(self.folder, self.kind)

    def record(self, precision: str, *, temperature: float = 1.0) -> ModelRecord:
        """As a manifest has it."""
        return ModelRecord(str(self.folder.absolute()), self.sha256, precision, temperature)

    def check_tokenizer(self, tokenizer: Path, data: Path) -> None:
        """Refuses a model whose ids aren't all of those of `data`, whose tokenizer.json is given. It may know more."""
        same = tokenizer_sha256(self.tokenizer) == tokenizer_sha256(tokenizer)
        if not same and not extends(self.tokenizer, tokenizer):
            more = vocabulary_size(tokenizer) - vocabulary_size(self.tokenizer)
            lacks = f", which lacks {more} of its tokens" if more > 0 and extends(tokenizer, self.tokenizer) else ""
            raise ConfigError(
                f"{self.key}={self.given}: its vocabulary is another than that of {data}{lacks}; prepare with "
                f"data.tokenizer.path={self.tokenizer.parent}, or name a model of the data's tokenizer."
            )

    def load(self, device: torch.device, precision: str) -> LanguageModel:
        """The model in evaluation mode; in bf16 its products are of bf16 copies of its weights."""
        if self.kind == HF:
            model = load_folder(self.folder, device)
        else:
            config = read_config(self.folder.resolve().parent.parent)
            model = load_model(config.model, self.folder, device, torch.float32, adapt=config.adapt)
        if precision == "bf16":
            autocast(model, device)
        return model.requires_grad_(False)


def find_frozen(given: str, *, key: str) -> FrozenModel:
    """What a run directory, a checkpoint (step-N) or a Hugging Face folder holds. ConfigError where there is none."""
    folder = local_folder(given)
    if not folder.is_dir():
        raise ConfigError(f"{key}={given}: there is no such folder (nothing is downloaded).")
    if (folder / "config.json").is_file():
        _require_causal(key, given, head_of(folder))
        return _frozen(key, given, folder, HF, folder, context_of(folder))
    if (folder / "config.yaml").is_file():
        folder = find_checkpoint(folder, None)
    elif not (folder / "state.json").is_file():
        raise ConfigError(
            f"{key}={given}: no config.json (a Hugging Face folder), config.yaml (a run directory) or state.json (a "
            "checkpoint, step-N) is there; give one of these folders."
        )
    run_dir = folder.resolve().parent.parent
    config = read_config(run_dir)
    _require_causal(key, given, config.model.head)
    return _frozen(key, given, folder, CHECKPOINT, run_dir / "tokenizer", config.data.sequence_length)


def _require_causal(key: str, given: str, head: str) -> None:
    if head != CAUSAL:
        raise ConfigError(
            f"{key}={given}: a {HEADS[head].noun}, which doesn't say what follows a text; give a causal language model."
        )


def _frozen(key: str, given: str, folder: Path, kind: str, tokenizer: Path, window: int) -> FrozenModel:
    file = tokenizer / "tokenizer.json"
    if not file.is_file():
        raise InputError(f"{key}={given}: no tokenizer.json in {tokenizer}, by which its ids would be known; add it.")
    return FrozenModel(key, given, folder, kind, file, window)


def with_reference_precision(config: Pretrain, manifests: list[Manifest]) -> Pretrain:
    """With train.precision=auto settled by what the data's reference was computed in, where they have one."""
    records = [manifest.models[REFERENCE] for manifest in manifests if REFERENCE in manifest.models]
    if config.train.precision != AUTO or REFERENCE not in members_of(config.objective) or not records:
        return config
    return with_values(config, {"train.precision": records[0].precision})


def check_asked_models(
    config: Pretrain, training: list[Manifest], others: list[Manifest], mesh: Mesh, *, new: bool
) -> None:
    """Refuses data for which other models were asked than a run's, and a teacher of another tokenizer.

    Every rank calls it. The start of a run that goes on has been compared.
    """
    members = members_of(config.objective, training=True)
    if REFERENCE in members and new:
        mesh.main_finds(lambda: check_reference(config, training + others))
    if TEACHER in members:
        check_temperature(config, training)
    if find_teacher(config) is not None:
        mesh.main_finds(lambda: check_teacher(config, training))


def check_reference(config: Pretrain, manifests: list[Manifest]) -> None:
    """Refuses log-probabilities of another model than the one that a run starts from, or in another precision."""
    key = "model.path" if config.model.init_from is None else "model.init_from"
    given = config.model.init_from or config.model.path
    if given is None:
        raise ConfigError(
            f"objective={config.objective.name}: what the shards hold is of a reference model; start from that one by "
            "model.init_from."
        )
    start = find_frozen(given, key=key)
    for manifest in manifests:
        record = manifest.models.get(REFERENCE)
        if record is None:
            raise InputError(
                f"{manifest.folder}: the manifest doesn't say whose log-probabilities it has; prepare again."
            )
        if record.sha256 != start.sha256:
            raise ConfigError(
                f"{key}={given}: {manifest.folder} has the log-probabilities of {record.path}, of other weights; start "
                f"from these, or prepare again with data.reference={given}."
            )
        precision = "fp32" if config.train.precision == "fp32" else "bf16"
        if record.precision != precision:
            raise ConfigError(
                f"train.precision={config.train.precision}: {manifest.folder} has the reference's log-probabilities in "
                f"{record.precision}, in which they differ; train in that, or prepare again with "
                f"data.model_precision={precision}."
            )


def check_temperature(config: Pretrain, manifests: list[Manifest]) -> None:
    """Refuses probabilities of a teacher at another temperature than a run's."""
    wanted = config.objective.temperature
    for manifest in manifests:
        record = manifest.models.get(TEACHER)
        if record is None:
            raise InputError(f"{manifest.folder}: the manifest doesn't say whose probabilities it has; prepare again.")
        if record.temperature != wanted:
            raise ConfigError(
                f"objective.temperature={wanted}: {manifest.folder} has a teacher's probabilities at "
                f"{record.temperature}; take that, or prepare again with data.teacher_temperature={wanted}."
            )


def find_teacher(config: Pretrain) -> FrozenModel | None:
    """The teacher that is asked while training; None where there is none."""
    given = config.objective.teacher
    return None if given is None or config.objective.alpha == 0 else find_frozen(given, key="objective.teacher")


def check_teacher(config: Pretrain, manifests: list[Manifest]) -> None:
    """Refuses a teacher that has other ids than the data, or doesn't see a whole row."""
    teacher = find_teacher(config)
    assert teacher is not None
    for manifest in manifests:
        teacher.check_tokenizer(manifest.tokenizer_file, manifest.folder)
    if config.data.sequence_length > teacher.window and teacher.kind == HF:
        raise ConfigError(
            f"data.sequence_length={config.data.sequence_length}: {teacher.key}={teacher.given} sees {teacher.window} "
            "tokens; use shorter rows."
        )


def open_teacher(config: Pretrain, device: torch.device) -> LanguageModel | None:
    """The teacher that is asked while training, whole on every rank, in evaluation mode; None where there is none."""
    teacher = find_teacher(config)
    return None if teacher is None else teacher.load(device, "bf16" if config.train.in_bf16 else "fp32")
