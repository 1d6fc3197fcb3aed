"""README.md of an export: a Hugging Face model card of what is known, and of nothing that wasn't measured.

Texts of others, as names of sources, are escaped in Markdown, and in the front matter only what has the form of a
name of the Hub's is stated. https://huggingface.co/docs/hub/model-cards has the fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from trainer.export.card_facts import DataFacts, RunFacts
from trainer.model.hugging_face.heads import CAUSAL, CLASSIFY, HEADS, MASKED, SEQ2SEQ, TAG
from trainer.report.curves import readable_count
from trainer.report.data_card.markdown import fenced, plain

HUB_DATASET = re.compile(r"hf://datasets/([\w][\w.-]{0,95}/[\w][\w.-]{0,95})(?:[@/].*)?")
HUB_MODEL = re.compile(r"hf://([\w][\w.-]{0,95}/[\w][\w.-]{0,95})(?:@.*)?")
LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_].*)?")
LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")
MOST_SOURCES = 50  # rows of a table
NOT_MEASURED = "not measured"

_TRANSFORMERS = """from transformers import AUTO_CLASS, AutoTokenizer

model = AUTO_CLASS.from_pretrained("DIR")
tokenizer = AutoTokenizer.from_pretrained("DIR")"""
LOADING = {
    "hf": _TRANSFORMERS,
    "int8": f"# with torchao installed\n{_TRANSFORMERS}",
    "peft": 'from peft import PeftModel\n\nmodel = PeftModel.from_pretrained(base, "DIR")  # base: that of the run',
    "gguf": "llama-cli -m DIR/MODEL.gguf",
}
PIPELINES = {
    CAUSAL: "text-generation",
    MASKED: "fill-mask",
    SEQ2SEQ: "text2text-generation",
    CLASSIFY: "text-classification",
    TAG: "token-classification",
}
OF_TEXT = ("causal", "distill", "seq2seq")  # objectives whose losses are nats per token, of which there is a perplexity


def card_of_model(facts: RunFacts, *, name: str, form: str, described: str, licence: str | None) -> str:
    """The whole file. `form` is the format of export, `described` which weights these are."""
    parts = [
        *_head(facts, name, form, described),
        *_data(facts),
        *_training(facts),
        *_results(facts),
        *_limits(facts),
        *_loading(facts, form),
    ]
    front = yaml.safe_dump(front_matter(facts, form=form, licence=licence), sort_keys=False, allow_unicode=False)
    return f"---\n{front}---\n\n" + "\n\n".join(parts) + "\n"


def front_matter(facts: RunFacts, *, form: str, licence: str | None) -> dict[str, Any]:
    """The fields of the Hub's, each only where it is known."""
    sources = [source for data in facts.data for source in data.sources or []]
    languages = {found[1] for source in sources if (found := LANGUAGE.fullmatch(source.language or ""))}
    datasets = {found[1] for source in sources if (found := HUB_DATASET.fullmatch(source.input))}
    fields: dict[str, Any] = {}
    if licence is not None and LICENCE.fullmatch(licence):
        fields["license"] = licence
    elif licence is not None:
        fields |= {"license": "other", "license_name": licence}
    if languages:
        fields["language"] = sorted(languages)
    if datasets:
        fields["datasets"] = sorted(datasets)
    fields["library_name"] = {"gguf": "gguf", "peft": "peft"}.get(form, "transformers")
    fields["pipeline_tag"] = PIPELINES[facts.run.model.head]
    if base := HUB_MODEL.fullmatch(facts.run.model.init_from or facts.run.model.path or ""):
        fields["base_model"] = base[1]
    fields["tags"] = ["banyan"]
    if any(result.metric.startswith("acc") for result in facts.results):
        fields["metrics"] = ["accuracy"]
    return fields


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


def _head(facts: RunFacts, name: str, form: str, described: str) -> Iterator[str]:
    size = f" of {readable_count(facts.parameters)} parameters" if facts.parameters else ""
    yield f"# {plain(name)}"
    yield f"A causal language model{size}, trained by Banyan: {plain(described)}, written as {form}."
    begun = facts.run.model.init_from or facts.run.model.path
    if begun:
        yield f"It began with {plain(begun)}."


# ------------------------------------------------------------------------------------------------------------- data


def _data(facts: RunFacts) -> Iterator[str]:
    yield "## Data"
    if not facts.data:
        yield "The run doesn't say what it was trained on."
    for data in facts.data:
        yield f"**{plain(data.name)}**: {data.documents:,} documents, {data.tokens:,} tokens."
        yield _table(
            ["Manifest", "Fingerprint (sha256)"], [[plain(path), plain(of)] for path, of in data.fingerprints.items()]
        )
        yield from _sources(data)


def _sources(data: DataFacts) -> Iterator[str]:
    if data.sources is None:
        yield "Its manifest isn't where the run read it, or has changed: sources and licences aren't known."
        return
    rows = [
        [
            plain(each.input),
            plain(each.licence or "not stated"),
            plain(each.language or "not stated"),
            f"{each.files:,}",
        ]
        for each in data.sources[:MOST_SOURCES]
    ]
    yield _table(["Source", "Licence", "Language", "Files"], rows)
    if len(data.sources) > MOST_SOURCES:
        yield f"{len(data.sources) - MOST_SOURCES:,} more sources are in its manifest."


# --------------------------------------------------------------------------------------------------------- training


def _training(facts: RunFacts) -> Iterator[str]:
    run, layout = facts.run, facts.run.parallel
    yield "## Training"
    hardware = "not known"
    if facts.device and facts.world_size:
        hardware = f"{facts.world_size:,} rank{'s' * (facts.world_size > 1)} on {plain(facts.device)}"
    rows = [
        ["Steps", f"{facts.step:,}"],
        ["Tokens", f"{facts.tokens:,}"],
        ["Sequence length", f"{run.data.sequence_length:,}"],
        ["Batch", f"{run.train.batch_size:,} sequences"],
        ["Optimiser", f"{plain(run.optimizer.name)}, peak learning rate {run.optimizer.lr:g}"],
        ["Schedule", plain(run.schedule.name)],
        ["Objective", plain(run.objective.name)],
        ["Adapters", "none" if run.adapt.name == "full" else plain(run.adapt.name)],
        ["Precision", plain(str(run.train.precision))],
        ["Seed", f"{run.seed}"],
        ["Layout", f"ZeRO stage {layout.zero_stage}, tensor {layout.tensor}, sequence {layout.sequence}"],
        ["Hardware", hardware],
        ["Energy", plain(facts.energy or NOT_MEASURED)],
        ["Software", plain(", ".join(f"{name} {version}" for name, version in facts.packages.items())) or "not known"],
    ]
    yield _table(["", ""], rows)


# ---------------------------------------------------------------------------------------------------------- results


def _results(facts: RunFacts) -> Iterator[str]:
    yield "## Results"
    if not facts.losses and not facts.results:
        yield f"Of these weights: {NOT_MEASURED}."
    objective = facts.run.objective.name
    if facts.losses and objective not in OF_TEXT:
        rows = [[plain(name), f"loss of {objective}", f"{loss:.4f}"] for name, loss, _ in facts.losses]
        rows += [[plain(name), plain(measure), f"{value:.4f}"] for name, measure, value in facts.measures]
        yield _table(["Set", "Measure", "Value"], rows)
    elif facts.losses:
        rows = [
            [
                plain(name),
                f"{loss:.4f}",
                f"{math.exp(min(loss, 700)):.2f}",
                NOT_MEASURED if bits is None else f"{bits:.4f}",
            ]
            for name, loss, bits in facts.losses
        ]
        yield _table(["Set", "Nats per token", "Perplexity", "Bits per byte"], rows)
    if facts.results:
        rows = [
            [
                plain(each.task),
                plain(each.version),
                plain(each.metric),
                f"{each.value:.4f}",
                "" if each.stderr is None else f"{each.stderr:.4f}",
                "" if each.interval is None else f"{each.interval[0]:.4f} to {each.interval[1]:.4f}",
                "" if each.n is None else f"{each.n:,}",
            ]
            for each in facts.results
        ]
        yield _table(["Task", "Version", "Metric", "Value", "Standard error", "Interval", "n"], rows)


def _limits(facts: RunFacts) -> Iterator[str]:
    yield "## Limits"
    limits = [
        f"It was trained on rows of {facts.run.data.sequence_length:,} tokens; beyond that nothing is known of it.",
        "It says what its data make likely, true or not; what is in them of bias and personal matters may come out.",
        f"Bias, toxicity and memorisation: {NOT_MEASURED} unless a result above says so.",
    ]
    if any(data.sources is None or any(not source.licence for source in data.sources) for data in facts.data):
        limits.append("The licences of some of its sources aren't stated: settle them before you publish it.")
    yield "\n".join(f"- {limit}" for limit in limits)


def _loading(facts: RunFacts, form: str) -> Iterator[str]:
    yield "## How to load it"
    yield "DIR is this folder."
    is_lstm = facts.run.model.kind == "lstm"
    code = "banyan generate path=DIR prompt=…" if is_lstm else LOADING[form]
    code = code.replace("AUTO_CLASS", HEADS[facts.run.model.head].auto_class)
    yield fenced(code).replace("```text", "```sh" if is_lstm or form == "gguf" else "```python", 1)
