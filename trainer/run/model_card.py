"""README.md of an exported run, as a Hugging Face model card: only what the run's own files say, or that they don't."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.config import Pretrain
from trainer.data.tokens.dataset import open_training
from trainer.data.tokens.manifest import Manifest
from trainer.errors import BanyanError, InputError
from trainer.evaluate.tasks.results import FILE as RESULTS
from trainer.evaluate.tasks.results import Record, read_results
from trainer.machine.json_file import Malformed, read_json
from trainer.machine.terminal import one_line
from trainer.run.memorisation import FILE as MEMORISATION
from trainer.track.sinks.journal import read_metrics

NAME = "README.md"
LAYOUT = ("world_size", "zero_stage", "tensor", "sequence")
MOST_SOURCES = 50  # rows of the table


def write_card(
    run_dir: Path, run: Pretrain, state: dict[str, Any], described: str, parameters: int, *, judged: bool
) -> str:
    """The card's text. `state` is the checkpoint's, `described` says which weights were written, and `judged` whether
    they are those that the run's evaluations are of, no average."""
    return "\n".join(_lines(run_dir, run, state, described, parameters, judged=judged)) + "\n"


def _lines(
    run_dir: Path, run: Pretrain, state: dict[str, Any], described: str, parameters: int, *, judged: bool
) -> Iterator[str]:
    step, name = int(state["step"]), run.run.name or run_dir.name
    yield from ("---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [banyan]", "---", "")
    yield from (
        f"# {_plain(name)}",
        "",
        f"A language model of {parameters:,} parameters, trained with Banyan: {described}.",
    )
    yield ""
    yield from ("## Data", "", *_data(run), "")
    yield from ("## Training", "", *_training(run_dir, run, state), "")
    yield from (
        "## Results",
        "",
        *(_results(run_dir, step) if judged else ["These weights, an average, were not measured."]),
        "",
    )
    yield from ("## Memorisation, bias and limits", "", *_limits(run_dir, run, step if judged else -1), "")
    yield from ("## How to load", "", "```python", "from transformers import AutoModelForCausalLM, AutoTokenizer", "")
    yield from (
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
    )
    yield from ("```",)


def _data(run: Pretrain) -> Iterator[str]:
    try:
        manifests = [dataset.manifest for dataset in open_training(run.data, run.seed)]
    except BanyanError:
        yield "The token shards aren't where they were when the model was trained, so nothing is said of them."
        return
    yield "| Set | Tokens | Documents | Fingerprint |"
    yield "|---|---|---|---|"
    for each in manifests:
        yield f"| {_plain(each.name)} | {each.tokens:,} | {each.documents:,} | `{each.fingerprint}` |"
    yield from ("", "| Source | Files | Licence |", "|---|---|---|")
    sources = [(group.input, len(group.files), group.licence) for each in manifests for group in each.sources]
    for source, files, licence in sources[:MOST_SOURCES]:
        yield f"| {_plain(source)} | {files:,} | {_plain(licence or 'not stated')} |"
    if len(sources) > MOST_SOURCES:
        yield f"| and {len(sources) - MOST_SOURCES:,} more | | |"
    yield from ("", _tokenizer(manifests[0]))


def _tokenizer(manifest: Manifest) -> str:
    return (
        f"Tokenizer: {_plain(manifest.tokenizer_name)}, {manifest.vocab_size:,} tokens, sha256 "
        f"`{manifest.tokenizer_sha256}`."
    )


def _training(run_dir: Path, run: Pretrain, state: dict[str, Any]) -> Iterator[str]:
    shape = state["shape"]
    layout = ", ".join(f"{key.replace('_', ' ')} {shape[key]}" for key in LAYOUT if key in shape)
    length, optimizer = run.data.sequence_length, run.optimizer
    yield f"- {state['step']:,} steps, {state['tokens']:,} tokens trained on, in rows of {length:,} tokens"
    yield f"- batches of {run.train.batch_size:,} rows; schedule {run.schedule.name}"
    yield f"- optimiser {optimizer.name}, learning rate {optimizer.lr:g}"
    yield f"- precision {run.train.precision}; layout at the checkpoint: {layout}"
    if run.model.init_from:
        yield f"- began with the weights of {_plain(str(run.model.init_from))}"
    device = _device(run_dir)
    yield f"- hardware: {_plain(device) if device else 'not recorded'}"
    yield "- energy: not measured"


def _device(run_dir: Path) -> str | None:
    try:
        found = read_json(run_dir / "facts.json")
    except (FileNotFoundError, Malformed):
        return None
    value = found.get("device") if isinstance(found, dict) else None
    return value if isinstance(value, str) else None


def _results(run_dir: Path, step: int) -> Iterator[str]:
    losses = _losses(run_dir, step)
    records = _records(run_dir, step)
    if not losses and not records:
        yield "Nothing was measured at this step."
        return
    if losses:
        yield from ("| Validation set | Metric | Value |", "|---|---|---|")
        for key, value in sorted(losses.items()):
            _, name, metric = key.split("/", 2)
            yield f"| {_plain(name)} | {_plain(metric)} | {value:.6f} |"
        yield ""
    if records:
        yield from (
            "| Task | Version | Metric | Value | Standard error | 95 % interval | n |",
            "|---|---|---|---|---|---|---|",
        )
        for record in records:
            error = "" if record.stderr is None else f"{record.stderr:.4f}"
            between = "" if record.interval is None else f"{record.interval[0]:.4f} to {record.interval[1]:.4f}"
            figure = f"{record.value:.6f}" if isinstance(record.value, float) else _plain(json.dumps(record.value))
            columns = (record.task, record.version, record.metric)
            yield f"| {' | '.join(map(_plain, columns))} | {figure} | {error} | {between} | {record.n:,} |"


def _losses(run_dir: Path, step: int) -> dict[str, float]:
    """The figures of validation sets at the checkpoint's step."""
    try:
        rows = read_metrics(run_dir)
    except (OSError, BanyanError):
        return {}
    kinds = ("/loss", "/bits_per_byte")
    found = {key: value for row in rows if row["step"] == step for key, value in row.items() if key.startswith("eval/")}
    sets = {key.rpartition("/")[0] for key in found if key.endswith("/loss")}
    return {key: value for key, value in found.items() if key.endswith(kinds) and key.rpartition("/")[0] in sets}


def _records(run_dir: Path, step: int) -> list[Record]:
    try:
        return read_results(run_dir / "evaluations" / f"step-{step:08d}" / RESULTS)
    except InputError:
        return []


def _limits(run_dir: Path, run: Pretrain, step: int) -> Iterator[str]:
    path = run_dir / "evaluations" / f"step-{step:08d}" / MEMORISATION
    try:
        found = read_json(path)
        known = sum(record["places"] for record in found["memorised"])
        yield (
            f"- Of {found['asked']:,} places of the training order, {known:,} were continued verbatim for "
            f"{found['tokens']:,} tokens after a prompt of {found['prompt_tokens']:,}; they are of "
            f"{len(found['memorised']):,} documents."
        )
    except (FileNotFoundError, Malformed, KeyError, TypeError):
        yield "- Memorisation of training data was not measured."
    paired = [record for record in _records(run_dir, step) if record.task.startswith("bias_")]
    if paired:
        yield "- Bias was measured by the tasks bias_…, above, with the limits that their files state; by nothing else."
    else:
        yield "- Bias was not measured."
    yield f"- The model saw at most {run.data.sequence_length:,} tokens at once in training."
    yield "- What it says may be wrong; it was judged by nothing but what is listed here."


def _plain(text: str) -> str:
    """Text in a table or paragraph: one line, without what Markdown or HTML would take for its own."""
    marks = (("|", "\\|"), ("<", "&lt;"), (">", "&gt;"), ("`", "'"), ("[", "\\["))
    plain = one_line(text)
    for mark, written in marks:
        plain = plain.replace(mark, written)
    return plain
