"""`banyan evaluate run.dir=… audit=memorisation`: does the model go on with what it was trained on, word for word?

Prompts are drawn from the training order up to the checkpoint: `memorisation.prompt_tokens` of a document, after
which the next `memorisation.tokens` are the model's greedy continuation or not (Carlini et al. 2023,
arXiv:2202.07646). That is so exactly if each of them is the likeliest token after the true ones before it: one pass,
nothing is generated. What is memorised is named with document, source and licence, by the same computed order as
`banyan data at`.

OUTPUT/memorisation.json    a record for each, and how many were asked
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checkpoint.state import read_state
from trainer.config import EvaluateVerb
from trainer.config.verbs import Memorisation
from trainer.data.tokens.blocks import DocumentSpan
from trainer.data.tokens.dataset import Dataset
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.history import History
from trainer.data.tokens.order import Order, derive_key
from trainer.errors import ConfigError, InputError, require
from trainer.evaluate.tasks.answer import Answering
from trainer.evaluate.tasks.encode import Row
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.work import TaskWork, sorted_rows, spread_work
from trainer.machine.durable import write_json
from trainer.machine.terminal import one_line
from trainer.run.directory import read_config, require_run_dir
from trainer.run.judge import identify_model, output_folder, print_on_main
from trainer.run.provenance import row_stretches
from trainer.run.sharded import join_judging, open_judged

FILE = "memorisation.json"
USUAL_PROMPT, LEAST_PROMPT = 50, 10  # tokens
SHOWN = 20  # documents on the console; the file has all


@dataclass(frozen=True)
class AskedPlace:
    """A place of the training order, and the document's tokens there: [begin, end) of the shard."""

    position: int
    step: int
    dataset: Dataset
    shard: int
    document: DocumentSpan
    begin: int
    row: Row


def audit_memorisation(config: EvaluateVerb) -> int:
    """Asks, and names what was found; the exit code. Every rank calls it."""
    settings = config.memorisation
    require(config.path is None, f"path={config.path}: what a model was trained on is known of run.dir alone.")
    require_run_dir(config.run.dir)
    mesh = join_judging(config)
    speaker = open_judged(config, mesh)
    left = speaker.context_length + 1 - settings.tokens
    prompt = min(USUAL_PROMPT, left) if settings.prompt_tokens is None else settings.prompt_tokens
    if not LEAST_PROMPT <= prompt <= left:
        raise ConfigError(
            f"memorisation.prompt_tokens={prompt}, memorisation.tokens={settings.tokens}: a prompt has {LEAST_PROMPT} "
            f"tokens or more, and both together fit the {speaker.context_length} that the model sees; change either."
        )
    settings = replace(settings, prompt_tokens=prompt)
    held: list[list[AskedPlace]] = []

    def read() -> int:
        held.append(list(draw_places(config, settings, Path(speaker.described["checkpoint"]))))
        return len(held[0])

    count = mesh.main_finds(read)
    asked = held[0] if held else []
    if count == 0:
        raise InputError(
            f"no document at the places that were drawn is {LEAST_PROMPT + settings.tokens} tokens long: "
            "lower memorisation.tokens, or raise memorisation.prompts."
        )
    work = spread_work(TaskWork(sorted_rows(each.row for each in asked), []) if mesh.is_main else None, mesh)
    model = mesh.main_finds(lambda: identify_model(speaker))
    output = output_folder(config, model)
    store = AnswerStore(output)
    mesh.main_finds(lambda: store.begin(model, f"evaluate.output={output}"))
    found = Answering(speaker.model, speaker.tokenizer, mesh, config.evaluate.batch_tokens, store).find(work)
    if mesh.is_main:
        right = {row for row, misses in zip(work.rows, found.misses, strict=True) if misses == 0}
        known = list(name_documents([each for each in asked if each.row in right], speaker.tokenizer, settings))
        summary = {"model": model["name"], "step": model["step"], **asdict(settings), "asked": len(asked)}
        write_json(output / FILE, summary | {"memorised": known})
        share = sum(record["places"] for record in known) / len(asked)
        print_on_main(
            mesh,
            f"{model['name']}: of {len(asked):,} places, {share:.2%} are continued verbatim for {settings.tokens} "
            f"tokens after {settings.prompt_tokens}; {len(known):,} documents",
            *(one_line(_in_a_line(record)) for record in known[:SHOWN]),
            f"results  {output / FILE}",
        )
    mesh.leave()
    return 0


def draw_places(config: EvaluateVerb, settings: Memorisation, checkpoint: Path) -> Iterator[AskedPlace]:
    """Windows of documents at drawn places of the order that the checkpoint has seen, without replacement."""
    run_dir = require_run_dir(config.run.dir)
    run, state = read_config(run_dir), read_state(checkpoint)
    history = History.from_json(state["history"])
    datasets = {each.manifest.fingerprint: each for each in open_training(run.data, run.seed)}
    rows = [dataset.rows for dataset in datasets.values()]
    order = Order(rows, history.segments, seed=run.seed, window=run.data.shuffle_shards)
    length = int(settings.prompt_tokens or 0) + settings.tokens
    slots = max(1, run.data.sequence_length // length)  # windows of a row
    total = int(state["position"]) * slots
    draw = random.Random(derive_key("memorisation", settings.seed))
    for chosen in sorted(draw.sample(range(total), min(total, settings.prompts))):
        position, slot = divmod(chosen, slots)
        step = history.step_of(position)
        if step is None:
            continue  # a rewind left it out
        (place,) = order.places(position, position + 1)
        dataset = datasets[place.fingerprint]
        dataset.gather_rows(np.array([place.shard]), np.array([place.row]))  # refuses a damaged one
        tokens = [
            token for first, last in row_stretches(dataset, place.shard, place.row) for token in (range(first, last))
        ]
        token = tokens[min(len(tokens) - 1, slot * length + draw.randrange(length))]
        reader = dataset.shards[place.shard]
        document = next(each for each in reader.documents(token, token + 1) if each.start <= token < each.stop)
        end = document.stop - 1  # the last token ends the document
        begin = max(document.start, min(token, end - length))
        if end - begin >= LEAST_PROMPT + settings.tokens:
            ids = reader.read(begin, min(end, begin + length)).tolist()
            yield AskedPlace(position, step, dataset, place.shard, document, begin, Row.of(ids, settings.tokens))


def name_documents(known: list[AskedPlace], tokenizer: Any, settings: Memorisation) -> Iterator[dict[str, Any]]:
    """A record for each document, the one that is met at most places first."""
    by_document: dict[tuple[str, int, int], list[AskedPlace]] = {}
    for each in known:
        by_document.setdefault((each.dataset.name, each.document.source, each.document.record), []).append(each)
    for (name, source, number), met in sorted(by_document.items(), key=lambda item: -len(item[1])):
        first, manifest = met[0], met[0].dataset.manifest
        ids = first.row.tokens.tolist()
        yield {
            "dataset": name,
            "source": manifest.source_name(source),
            "record": number,
            "licence": manifest.licence_of(source),
            "document_tokens": first.document.stop - first.document.start - 1,
            "first_token": first.begin - first.document.start,
            "places": len(met),
            "positions": [each.position for each in met],
            "steps": sorted({each.step for each in met}),
            "prompt": tokenizer.decode(ids[: -settings.tokens]),
            "continuation": tokenizer.decode(ids[-settings.tokens :]),
        }


def _in_a_line(record: dict[str, Any]) -> str:
    text = record["continuation"]
    shown = text if len(text) <= 60 else f"{text[:60]}…"
    return (
        f"  {record['source']}, record {record['record']} (licence {record['licence'] or 'not stated'}), "
        f"{record['places']} places, step {record['steps'][0]}: {shown!r}"
    )
