"""`banyan evaluate` with tasks: a checkpoint or a Hugging Face folder answers, on any number of ranks; nothing is lost.

OUTPUT/results.json, samples/     when it is through
OUTPUT/answers/, model.json       while it runs: what was computed stays; the same command goes on
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import xxhash

from trainer.checkpoint.complete import checkpoint_sha256
from trainer.config import EvaluateVerb
from trainer.errors import require
from trainer.evaluate.tasks.answer import Answering
from trainer.evaluate.tasks.encode import RequestEncoder
from trainer.evaluate.tasks.in_loop import open_judge, read_tasks
from trainer.evaluate.tasks.results import FILE, as_records, in_lines, write_results
from trainer.evaluate.tasks.store import AnswerStore
from trainer.machine.hub_name import local_folder
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.headed import Seq2SeqLM
from trainer.ranks.mesh import Mesh
from trainer.run.recorded import record_evaluation
from trainer.run.sharded import join_judging, open_judged
from trainer.run.speaker import Speaker


def judge_by_tasks(config: EvaluateVerb) -> int:
    """Answers what isn't answered yet, judges it, writes and prints the results; the exit code. Every rank calls it."""
    mesh = join_judging(config)
    sets = read_tasks(config.evaluate, mesh, may_download=config.run.allow_download)  # what is wrong is said first
    speaker = open_judged(config, mesh)
    require(
        not isinstance(speaker.model, Seq2SeqLM),
        f"{next(iter(speaker.described.values()))}: an encoder–decoder; evaluate.tasks are asked of causal "
        "models. Measure it by its losses, without evaluate.tasks.",
    )
    encoder = RequestEncoder(speaker.tokenizer, speaker.context_length)
    judge = open_judge(sets, encoder, mesh)
    model = mesh.main_finds(lambda: identify_model(speaker))
    output = output_folder(config, model)
    store = AnswerStore(output)
    mesh.main_finds(lambda: store.begin(model, f"evaluate.output={output}"))
    print_on_main(mesh, model["name"], *(line for each in judge.sets for line in each.described()))
    answering = Answering(speaker.model, speaker.tokenizer, mesh, config.evaluate.batch_tokens, store)
    found = answering.find(judge.work)
    if mesh.is_main:
        results = judge.results(found, resamples=config.evaluate.bootstrap, store=store)
        records = as_records(results, model=model["name"], step=model["step"])
        write_results(output, results, records)
        print_on_main(mesh, *in_lines(results), f"results  {output / FILE}")
        if model["step"] is not None:
            figures = {f"{each.task}/{each.metric}": each.value for each in records}
            record_evaluation(Path(model["name"]), output / FILE, figures, config.track.wandb)
    mesh.leave()
    return 0


def print_on_main(mesh: Mesh, *lines: str) -> None:
    """Prints lines on rank 0."""
    if mesh.is_main:
        for line in lines:
            print(line, flush=True)


def output_folder(config: EvaluateVerb, model: dict[str, Any]) -> Path:
    """evaluate.output; by default in the run's folder, or for a Hugging Face folder under evaluations/ here."""
    if config.evaluate.output is not None:
        return Path(config.evaluate.output).expanduser()
    if config.path is None:
        average = "-ema" if config.checkpoint.ema else ""
        return Path(str(config.run.dir)).expanduser() / "evaluations" / f"{Path(model['name']).name}{average}"
    return Path("evaluations") / Path(model["name"]).name


def identify_model(speaker: Speaker) -> dict[str, Any]:
    """What tells one model from another: its place, its step, and a hash of what its files are.

    A checkpoint's COMPLETE has the hash of every file; of a Hugging Face folder, weights count by size and time.
    """
    described = speaker.described
    if "checkpoint" in described:
        return identify_checkpoint(Path(described["checkpoint"]), str(described["weights"]), speaker.model)
    return identify_folder(Path(local_folder(described["folder"])), speaker.model)


def identify_folder(folder: Path, model: LanguageModel) -> dict[str, Any]:
    """The same of a Hugging Face folder."""
    digest = xxhash.xxh3_128()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            digest.update(path.read_bytes())
        elif path.is_file():
            status = os.stat(path)
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return {"name": str(folder), "step": None, "content": digest.hexdigest(), **_weights("weight", model)}


def identify_checkpoint(folder: Path, weights: str, model: LanguageModel) -> dict[str, Any]:
    """The same of a checkpoint, whose weights of that kind are in `model`."""
    content = checkpoint_sha256(folder)
    step = int(folder.name.split("-")[-1])
    return {"name": str(folder.absolute()), "step": step, "content": content, **_weights(weights, model)}


def _weights(kind: str, model: LanguageModel) -> dict[str, str]:
    """Kind and precision of the weights that answer."""
    return {"weights": kind, "dtype": str(next(model.parameters()).dtype).removeprefix("torch.")}
