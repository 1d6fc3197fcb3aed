"""`banyan export`: a checkpoint, of any shape of run, as a folder that transformers loads, or in another format.

banyan export run.dir=runs/NAME format=hf
banyan export run.dir=runs/NAME format=hf export.output=DIR export.dtype=bf16 export.average_last=5
banyan export path=HF_FOLDER format=int8 export.output=DIR
banyan export run.dir=runs/NAME format=peft      adapters alone, for PeftModel.from_pretrained
banyan export run.dir=runs/NAME format=gguf export.gguf=q8_0      for llama.cpp
"""

from __future__ import annotations

import shutil
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.fragment import EMA, WEIGHT, kind_of_weights
from trainer.checkpoint.lineage_file import NOTED, ExportLineage, lineage_of, note_export, write_lineage
from trainer.config import Adapt, Evaluate, Export, Model, Pretrain
from trainer.config.names import as_name
from trainer.config.values import check_values
from trainer.data.examples.render import Renderer
from trainer.data.tokens.datasets import open_validation
from trainer.data.tokens.modalities import find_ranges, ranges_as_json
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import BanyanError, ConfigError, InputError, require
from trainer.evaluate.loss import Score, score
from trainer.evaluate.merged import WholeWeights
from trainer.export.card_facts import gather_facts
from trainer.export.folder_card import CARD, card_of_folder
from trainer.export.formats import FORMATS
from trainer.export.model_card import card_of_model
from trainer.export.source import ExportSource
from trainer.machine.durable import problem_of, storage_errors, sync, write_text
from trainer.machine.hub_name import local_folder
from trainer.model.adapters import name_of_head
from trainer.model.build import LanguageModel, parameter_shapes
from trainer.model.hugging_face.architecture import write_architecture
from trainer.model.hugging_face.claimed_sizes import require_widths
from trainer.model.hugging_face.config_json import check_doors, read_config_json, read_json_object
from trainer.model.hugging_face.folder import CONFIG, GENERATION, read_own_config
from trainer.model.hugging_face.heads import CAUSAL, HEADS, MASKED, SEQ2SEQ
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.model.hugging_face.inner_folder import open_inner_weights
from trainer.model.hugging_face.safetensors_folder import find_tensors
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.lstm_folder import write_lstm_config
from trainer.model.peft_folder import write_adapters
from trainer.model.region import Region, Source
from trainer.model.sizes import decoder_shapes
from trainer.objective.build import build_objective, members_of
from trainer.objective.masked import mask_token
from trainer.ranks.mesh import Mesh
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir, require_tokenizer_of
from trainer.run.recorded import record_export


def main(config: Export) -> int:
    """The verb: a temporary folder is filled, tensor by tensor, and renamed when it is whole."""
    check_values(config)
    if config.path is not None:
        source, target = folder_source(local_folder(config.path), config), None
    else:
        source, target = run_source(require_run_dir(config.run.dir), config)
    require(
        (source.model.kind == "decoder" and source.model.head == CAUSAL) or config.format == "hf",
        f"format={config.format} with {_kind_of(source.model)}: it is for causal decoders; use format=hf.",
    )
    form = FORMATS[config.format]
    output = config.export.output or (target and f"{target}{form.folder_suffix(config.export)}")
    require(output is not None, "export.output is not set: name a new folder to write.")
    folder = Path(str(output)).absolute()
    check_target(folder)

    lineage = _lineage(source, config)
    attempt = folder.with_name(f"{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        with storage_errors(folder):
            attempt.mkdir(parents=True)
            written = form.write(attempt, source, config.export)
            write_text(attempt / CARD, describe_export(source, config))
            if lineage is not None:
                write_lineage(attempt, lineage)
            sync(attempt)
            attempt.rename(folder)
            sync(folder.parent)
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
    print(f"{folder}: {written}")
    if lineage is not None:
        problem = problem_of(lambda: note_export(source.checkpoints[0].parents[1], folder, lineage))
        if problem:
            print(f"not noted in the run's {NOTED}: {problem}")
        record_export(source.checkpoints, folder, config)
    return 0


def _lineage(source: ExportSource, config: Export) -> ExportLineage | None:
    """What an export of a run is made from."""
    if not source.checkpoints or source.facts is None:
        return None
    name = source.facts.run.run.name or source.checkpoints[0].parents[1].resolve().name
    return lineage_of(source.checkpoints, name, config.format)


def _kind_of(model: Model) -> str:
    return f"model={model.kind}" if model.kind != "decoder" else f"a {HEADS[model.head].noun}"


def run_source(run_dir: Path, config: Export) -> tuple[ExportSource, Path]:
    """The model of a run's checkpoints, and the folder that it is written to unless another is named."""
    run = read_config(run_dir)
    tokenizer = load_run_tokenizer(run_dir)
    count = config.export.average_last
    readers = open_last(run_dir, config.checkpoint.step, count, run.model, run.adapt)
    kind = kind_of_weights(config.checkpoint)
    for reader in readers:
        reader.require(kind)
    require_tokenizer_of(readers[0].folder, readers[0].state, tokenizer)
    architecture, generation = describe_model(
        run_dir, run.model, context_length=run.data.sequence_length, end_of_text=tokenizer.end_of_text_id
    )
    if tokenizer.chat_template is not None:  # where answers end, for whoever serves it
        generation |= {"eos_token_id": Renderer(tokenizer).turn_ends}
    ranges = find_ranges(tokenizer.special_ids)
    if ranges:
        architecture |= {"modalities": ranges_as_json(ranges)}
    adapters = None
    if run.adapt.name == "lora" and count == 1:
        head = name_of_head(run.model)
        tied_head = None if f"{head}.weight" in readers[0].shapes else head
        adapters = partial(adapters_of, readers[0], kind, run.adapt, tied_head=tied_head)
    source = ExportSource(
        model=run.model,
        architecture=architecture,
        generation=generation,
        shapes=dict(readers[0].shapes),
        read=lambda parameter, region: mean_of(readers, parameter, kind, region),
        tokenizer=tokenizer,
        tokenizer_folder=run_dir / "tokenizer",
        described=describe_weights(readers, run_dir.name, kind),
        score=partial(score_sets, run, rows=config.export.loss_rows),
        mask_token=mask_token(run.objective, tokenizer.special_ids) if run.model.head == MASKED else None,
        write_adapters=adapters,
        checkpoints=[reader.folder for reader in readers],
        facts=gather_facts(run_dir, run, readers[0].state, as_trained=count == 1 and kind == WEIGHT),
    )
    return source, default_output(run_dir, readers[0].state["step"], count, kind)


def folder_source(folder: Path, config: Export) -> ExportSource:
    """The model of a Hugging Face folder: as our decoder's where it is one, else as Hugging Face's own code has it."""
    require(config.run.dir is None, "path and run.dir are both set: export one of them.")
    require(
        config.export.average_last == 1, "export.average_last: a Hugging Face folder holds one model; leave it out."
    )
    require((folder / CONFIG).is_file(), f"path={folder}: no {CONFIG} there; for a run give run.dir={folder}.")
    tokenizer = load_tokenizer(folder)
    architecture, name = read_config_json(folder), as_name(folder.resolve().name)
    require_widths(architecture, find_tensors(folder).values(), folder / CONFIG)
    try:
        model = Model(name=name, **find_init_folder(str(folder)).architecture)
        shapes = decoder_shapes(model)
        read: Source = FolderReader(folder).read
    except InputError:
        model = Model(name=name, path=str(folder))
        shapes = parameter_shapes(model)
        read, _ = open_inner_weights(model, shapes)
    generation = read_json_object(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    check_doors(generation, str(folder / GENERATION))
    return ExportSource(
        model=model,
        architecture={"bos_token_id": tokenizer.end_of_text_id, **architecture},
        generation=generation,
        shapes=shapes,
        read=lambda parameter, region: read(parameter, WEIGHT, region),
        tokenizer=tokenizer,
        tokenizer_folder=folder,
        described=model.name,
    )


def describe_export(source: ExportSource, config: Export) -> str:
    """The model card, README.md."""
    if source.facts is None:
        return card_of_folder(
            source.tokenizer_folder, name=source.described, form=config.format, licence=config.export.licence
        )
    name = source.facts.run.run.name or Path(str(config.run.dir)).resolve().name
    return card_of_model(
        source.facts, name=name, form=config.format, described=source.described, licence=config.export.licence
    )


def open_last(run_dir: Path, step: int | None, count: int, model: Model, adapt: Adapt) -> list[WholeWeights]:
    """The checkpoint of `step`, or the newest whole one, and the `count` - 1 whole ones before it."""
    newest = find_checkpoint(run_dir, step)
    readers = [WholeWeights(newest, model, adapt)]
    earlier = [number for number in list_steps(run_dir) if folder_of(run_dir, number).name < newest.name]
    if len(earlier) + 1 < count:
        steps = ", ".join(map(str, [*earlier, readers[0].state["step"]]))
        raise ConfigError(
            f"export.average_last={count}: up to {newest.name} there are only the checkpoints {steps}; "
            f"use {len(earlier) + 1}, and let runs keep more with checkpoint.keep."
        )
    for number in reversed(earlier[len(earlier) - count + 1 :]):
        reader = WholeWeights(find_checkpoint(run_dir, number), model, adapt)
        reader.check_shapes(readers[0].shapes)
        readers.append(reader)
    return readers


def default_output(run_dir: Path, step: int, count: int, kind: str) -> Path:
    """RUN/export/step-N, with the number of averaged checkpoints where there are several, and the kind of weights."""
    averaged = f"-average-{count}" if count > 1 else ""
    return run_dir / "export" / f"step-{step:08d}{averaged}{'-ema' if kind == EMA else ''}"


def check_target(target: Path) -> None:
    """Refuses to write over anything."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"export.output={target}: something is there; remove it or choose another folder.")


def adapters_of(
    reader: WholeWeights, kind: str, adapt: Adapt, folder: Path, *, tied_head: str | None, dtype: torch.dtype
) -> int:
    """Writes a checkpoint's adapters alone into a folder; the bytes of all."""
    return write_adapters(
        folder, reader.adapters(kind), adapt, base=reader.base_folder, tied_head=tied_head, dtype=dtype
    )


def mean_of(readers: list[WholeWeights], parameter: str, kind: str, region: Region) -> torch.Tensor:
    """A region's weights, averaged over checkpoints in fp64; 1-D, fp32."""
    first, *others = (reader.read(parameter, kind, region) for reader in readers)
    if not others:
        return first
    total = first.double()
    for weights in others:
        total += weights
    return (total / len(readers)).float()


def describe_model(
    run_dir: Path, model: Model, *, context_length: int, end_of_text: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json: text begins after an end-of-text token, and ends with one."""
    ids = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    if model.path is not None:
        architecture, generation = read_own_config(run_dir)
        if model.head == SEQ2SEQ:  # what a target begins after
            ids["decoder_start_token_id"] = architecture.get("decoder_start_token_id") or architecture["pad_token_id"]
        return architecture | ids, generation | ids
    if model.kind == "lstm":
        written = write_lstm_config(model, context_length=context_length, end_of_text=end_of_text)
        return written, ids | {"do_sample": True}
    architecture = write_architecture(model, context_length=context_length, end_of_text=end_of_text, dtype="float32")
    return architecture, ids | {"do_sample": True}


def describe_weights(readers: list[WholeWeights], run: str, kind: str) -> str:
    """Which weights these are, for the console."""
    steps = [reader.state["step"] for reader in readers]
    of = f"mean of steps {', '.join(map(str, steps))}" if len(steps) > 1 else f"step {steps[0]}"
    return f"{of} of {run}{' (moving average)' if kind == EMA else ''}"


def score_sets(run: Pretrain, model: LanguageModel, *, rows: int) -> dict[str, Score]:
    """The loss of a model on the first rows of a run's validation sets, by name; {} where they are gone."""
    try:
        sets = open_validation(run.data, members_of(run.objective))
    except BanyanError as error:
        print(f"no loss can be measured: {error}")
        return {}
    mesh = Mesh(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"), control=None)  # type: ignore[arg-type]
    settings = Evaluate(rows=rows)
    return {
        dataset.name: score(
            build_objective(run.objective, run.data, dataset.manifest, seed=run.seed),
            model,
            dataset,
            settings,
            mesh,
        )
        for dataset in sets
    }
