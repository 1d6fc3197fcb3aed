"""`banyan export`: a checkpoint, of any shape of run, as a folder that Hugging Face's transformers loads.

banyan export run.dir=runs/NAME format=hf
banyan export run.dir=runs/NAME format=hf export.output=DIR export.dtype=bf16 export.average_last=5
banyan export run.dir=runs/NAME format=peft      adapters alone, for PeftModel.from_pretrained
banyan export run.dir=runs/NAME format=gguf export.gguf=q8_0      for llama.cpp
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.folders import folder_of, list_steps
from trainer.checkpoint.fragment import EMA, kind_of_weights
from trainer.config import Adapt, Export, Model
from trainer.config.values import check_values
from trainer.data.examples.render import Renderer
from trainer.data.tokens.tokenizer import copy_tokenizer
from trainer.errors import ConfigError, InputError, require
from trainer.evaluate.gguf_file import check_gguf, write_gguf
from trainer.evaluate.merged import WholeWeights
from trainer.machine.durable import storage_errors, sync, write_json
from trainer.model.hugging_face.architecture import stored_tensors, write_architecture
from trainer.model.hugging_face.folder import read_own_config
from trainer.model.hugging_face.tensor_files import StoredAs, Tensor, write_tensors
from trainer.model.peft_folder import write_adapters
from trainer.model.region import Region
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir, require_tokenizer_of

DTYPES = {"fp32": ("float32", torch.float32), "bf16": ("bfloat16", torch.bfloat16)}


def main(config: Export) -> int:
    """The verb: a temporary folder is filled, tensor by tensor, and renamed when it is whole."""
    check_values(config)
    run_dir = require_run_dir(config.run.dir)
    run = read_config(run_dir)
    tokenizer = load_run_tokenizer(run_dir)
    settings = config.export
    readers = open_last(run_dir, config.checkpoint.step, settings.average_last, run.model, run.adapt)
    kind = kind_of_weights(config.checkpoint)
    for reader in readers:
        reader.require(kind)
    step = readers[0].state["step"]
    require_tokenizer_of(readers[0].folder, readers[0].state, tokenizer)
    name, dtype = DTYPES[settings.dtype]
    if config.format == "gguf":
        check_gguf(run.model)
    if config.format == "peft":
        require(run.adapt.name == "lora", f"format=peft: {run_dir} trained all weights, not adapters; use format=hf.")
        require(
            settings.average_last == 1, "export.average_last with format=peft: a mean of factors is no adapter; use 1."
        )
    architecture, generation = describe_model(
        run_dir,
        run.model,
        context_length=run.data.sequence_length,
        end_of_text=tokenizer.end_of_text_id,
        dtype=name,
    )
    if tokenizer.chat_template is not None:  # where answers end, for whoever serves it
        generation |= {"eos_token_id": Renderer(tokenizer).turn_ends}
    default = default_output(run_dir, step, settings.average_last, kind, config.format)
    target = Path(settings.output or default).absolute()
    check_target(target)
    numbers = settings.gguf if config.format == "gguf" else settings.dtype

    attempt = target.with_name(f"{target.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        with storage_errors(target):
            attempt.mkdir(parents=True)
            if config.format == "peft":
                base = readers[0].base_folder
                written = write_adapters(attempt, readers[0].adapters(kind), run.adapt, base=base, dtype=dtype)
            elif config.format == "gguf":
                written = write_gguf(
                    attempt / f"model-{settings.gguf}.gguf",
                    whole_weights(readers, kind),
                    run.model,
                    tokenizer,
                    numbers=settings.gguf,
                    context_length=run.data.sequence_length,
                )
            else:
                written = write_tensors(
                    attempt, tensors_of(readers, stored_as(run.model), kind), dtype, settings.shard_bytes
                )
                write_json(attempt / "config.json", architecture)
                write_json(attempt / "generation_config.json", generation)
            copy_tokenizer(run_dir / "tokenizer", attempt)
            sync(attempt)
            attempt.rename(target)
            sync(target.parent)
    except BaseException:
        shutil.rmtree(attempt, ignore_errors=True)
        raise
    print(f"{target}: {architecture['architectures'][0]}, {describe_export(readers, run.model, written, numbers)}")
    return 0


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


def default_output(run_dir: Path, step: int, count: int, kind: str, form: str = "hf") -> Path:
    """RUN/export/step-N, with the number of averaged checkpoints where there are several, and the kind of weights."""
    averaged = f"-average-{count}" if count > 1 else ""
    return (
        run_dir
        / "export"
        / f"step-{step:08d}{averaged}{'-ema' if kind == EMA else ''}{f'-{form}' if form != 'hf' else ''}"
    )


def check_target(target: Path) -> None:
    """Refuses to write over anything."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"export.output={target}: something is there; remove it or choose another folder.")


def stored_as(model: Model) -> StoredAs:
    """Which tensors hold a parameter on disk: a Hugging Face model keeps its own."""
    return stored_tensors if model.path is None else lambda name, shape: [(name, shape)]


def tensors_of(readers: list[WholeWeights], stored: StoredAs, kind: str) -> Iterator[Tensor]:
    """What Hugging Face wants on disk, in the order of the model, each to be read when it's written."""
    for parameter, shape in readers[0].shapes.items():
        start = 0
        for name, size in stored(parameter, shape):
            stop = start + torch.Size(size).numel()
            yield Tensor(name, size, partial(mean_of, readers, parameter, kind, Region(shape, None, start, stop)))
            start = stop


def whole_weights(readers: list[WholeWeights], kind: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter by name, whole, one at a time; the mean of several checkpoints'."""
    for name, shape in readers[0].shapes.items():
        yield name, mean_of(readers, name, kind, Region.of_slice(shape, None)).view(shape)


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
    run_dir: Path, model: Model, *, context_length: int, end_of_text: int, dtype: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json: text begins after an end-of-text token, and ends with one."""
    ids = {"bos_token_id": end_of_text, "eos_token_id": end_of_text}
    if model.path is not None:
        architecture, generation = read_own_config(run_dir)
        return architecture | ids | {"dtype": dtype}, generation | ids
    architecture = write_architecture(model, context_length=context_length, end_of_text=end_of_text, dtype=dtype)
    return architecture, ids | {"do_sample": True}


def describe_export(readers: list[WholeWeights], model: Model, written: int, dtype: str) -> str:
    """What was written, for the console."""
    steps = [reader.state["step"] for reader in readers]
    of = f"mean of steps {', '.join(map(str, steps))}" if len(steps) > 1 else f"step {steps[0]}"
    return f"{of} of {model.name}, {dtype}, {written:,} bytes of weights"
