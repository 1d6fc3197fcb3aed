"""`banyan evaluate` with tasks: a checkpoint or a Hugging Face folder answers, on any number of ranks; nothing is lost.

OUTPUT/results.json, samples/     when it is through
OUTPUT/answers/, model.json       while it runs: what was computed stays; the same command goes on
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import xxhash

from trainer.config import EvaluateVerb
from trainer.errors import require
from trainer.evaluate.tasks.answer import Answering
from trainer.evaluate.tasks.encode import RequestEncoder
from trainer.evaluate.tasks.in_loop import open_judge, read_tasks
from trainer.evaluate.tasks.results import FILE, as_records, in_lines, write_results
from trainer.evaluate.tasks.store import AnswerStore
from trainer.machine.hub_name import local_folder
from trainer.model.hugging_face.headed import Seq2SeqLM
from trainer.ranks.mesh import Mesh, join
from trainer.run.recorded import record_evaluation
from trainer.run.speaker import Speaker, open_speaker

LONGEST_WAIT_S = 24 * 3600.0  # of a rank that is through for the last one


def judge_by_tasks(config: EvaluateVerb) -> int:
    """Answers what isn't answered yet, judges it, writes and prints the results; the exit code. Every rank calls it."""
    mesh = join(hang_timeout_s=LONGEST_WAIT_S)
    sets = read_tasks(config.evaluate, mesh, may_download=config.run.allow_download)  # what is wrong is said first
    speaker = open_speaker(config.run, config.checkpoint, config.path, device=mesh.device, as_trained=True)
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
        results = judge.results(found, resamples=config.evaluate.bootstrap)
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
        folder = Path(described["checkpoint"])
        content = hashlib.sha256((folder / "COMPLETE").read_bytes()).hexdigest()
        return {
            "name": str(folder),
            "step": int(folder.name.split("-")[-1]),
            "content": content,
            **_weights_in(speaker),
        }
    folder = Path(local_folder(described["folder"]))
    digest = xxhash.xxh3_128()
    for path in sorted(folder.iterdir()):
        if path.suffix == ".json":
            digest.update(path.read_bytes())
        elif path.is_file():
            status = os.stat(path)
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}".encode())
    return {"name": str(folder), "step": None, "content": digest.hexdigest(), **_weights_in(speaker)}


def _weights_in(speaker: Speaker) -> dict[str, str]:
    """Kind and precision of the weights that answer."""
    dtype = str(next(speaker.model.parameters()).dtype).removeprefix("torch.")
    return {"weights": str(speaker.described.get("weights", "weight")), "dtype": dtype}
