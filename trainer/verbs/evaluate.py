"""`banyan evaluate`: loss, perplexity and bits per byte of a checkpoint on token shards; or what it makes of tasks.

banyan evaluate run.dir=runs/NAME                                      the run's own validation sets
banyan evaluate run.dir=runs/NAME data.path=DIR                        any token shards of the same tokenizer
banyan evaluate path=HF_FOLDER data.path=DIR                           a Hugging Face model, by what its class is for
banyan evaluate run.dir=runs/NAME evaluate.tasks=[arc_easy,piqa]       tasks; path=HF_FOLDER in the place of a run
banyan evaluate run.dir=runs/NAME audit=memorisation                   what it knows by heart, and whose that is
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from trainer.config import EvaluateVerb
from trainer.config.values import check_values
from trainer.errors import require
from trainer.evaluate.document_losses import open_documents_of
from trainer.evaluate.loss import TOKENS, Score, cut_in_words, score, scored_rows
from trainer.evaluate.loss_records import loss_outcomes
from trainer.evaluate.tasks.results import FILE, as_records, write_results
from trainer.evaluate.tasks.store import AnswerStore
from trainer.evaluate.tasks.task import TaskOutcome
from trainer.objective.build import build_objective
from trainer.run.judge import judge_by_tasks, output_folder
from trainer.run.memorisation import audit_memorisation
from trainer.run.open import check_shards
from trainer.run.recorded import record_evaluation
from trainer.run.scored import describes_order, find_hugging_face, find_run, scored_sets
from trainer.run.sharded import is_sharded, join_judging, open_judged
from trainer.track.metrics import perplexity


def main(config: EvaluateVerb) -> int:
    """Judges the model by tasks, where there are some, or scores it on every set; the exit code."""
    check_values(config)
    if config.audit is not None:
        require(not config.evaluate.tasks, f"audit={config.audit} and evaluate.tasks: ask for one at a time.")
        return audit_memorisation(config)
    if config.evaluate.tasks:
        return judge_by_tasks(config)
    return score_losses(config)


def score_losses(config: EvaluateVerb) -> int:
    """Scores the model on every set and prints a line for each."""
    require(
        (config.run.dir is None) != (config.path is None),
        "run.dir and path: give one of them, a run directory or a Hugging Face folder.",
    )
    mesh = join_judging(config)
    subject = find_run(config, mesh) if config.path is None else find_hugging_face(config)
    sets = list(scored_sets(subject, config.data))
    check_shards([each.dataset for each in sets], config.data.verify_bytes, mesh)
    if mesh.is_main:
        print(subject.name)
        if order := describes_order(subject):
            print(order)
    model, loaded = None, None
    outcomes: list[TaskOutcome] = []
    for each in sets:
        if model is None or each.model != loaded:
            whole = not is_sharded(config.parallel)
            model = subject.load(each.model, mesh.device) if whole else open_judged(config, mesh).model
            loaded = each.model
            identity = mesh.main_finds(partial(subject.identify, model))
            output = output_folder(config, identity)
            mesh.main_finds(partial(AnswerStore(output).begin, identity, f"evaluate.output={output}"))
        objective = build_objective(each.objective, each.data, each.dataset.manifest, seed=each.seed)
        rows = scored_rows(each.dataset, config.evaluate)
        documents = open_documents_of(objective, each.dataset, config.evaluate, rows, mesh, say=print)
        result = score(objective, model, each.dataset, config.evaluate, mesh, documents=documents)
        if mesh.is_main:
            resamples = config.evaluate.bootstrap
            outcomes += loss_outcomes(each.dataset, result, documents, rows=rows, resamples=resamples)
            if cut := cut_in_words(each.dataset, config.evaluate):
                print(cut)
            print(f"{each.dataset.name}: {_in_words(result)} of {each.dataset.manifest.folder})", flush=True)
            for line in [*_by_label(result), *_by_group(result)]:
                print(line, flush=True)
    if mesh.is_main:
        records = as_records(outcomes, model=identity["name"], step=identity["step"])
        write_results(output, outcomes, records, within=[each.dataset.name for each in sets])
        print(f"results  {output / FILE}", flush=True)
        if config.path is None:
            figures = {f"{each.task}/{each.metric}": each.value for each in records}
            record_evaluation(Path(subject.name), output / FILE, figures, config.track.wandb)
    mesh.leave()
    return 0


def _in_words(result: Score) -> str:
    """To six digits, without the last bracket."""
    if result.unit != TOKENS:
        shown = ((name, value) for name, value in result.measures.items() if not _is_by_label(name))
        measures = "".join(f", {name} {value:.6f}" for name, value in shown)
        return f"loss {result.loss:.6f}{measures} ({result.tokens:,} {result.unit}"
    bits = "" if result.bits_per_byte is None else f", {result.bits_per_byte:.6f} bits per byte"
    loss, tokens = result.loss, result.tokens
    return f"{loss:.6f} nats per token, perplexity {perplexity(loss):.4f}{bits} ({tokens:,} tokens"


def _is_by_label(measure: str) -> bool:
    """Whether it is a label's, such as f1/spam, and so in the table; rewards/accuracies isn't."""
    return measure.startswith(("precision/", "recall/", "f1/"))


def _by_label(result: Score) -> list[str]:
    """Precision, recall and F1 of each label, a line for each; none where nothing is labelled."""
    names = [name.removeprefix("f1/") for name in result.measures if name.startswith("f1/")]
    width = max(map(len, names), default=0)
    lines = [f"  {'':{width}}  precision    recall        f1"] if names else []
    for name in names:
        figures = (result.measures[f"{figure}/{name}"] for figure in ("precision", "recall", "f1"))
        lines.append(f"  {name:{width}}  " + "  ".join(f"{figure:8.6f}" for figure in figures))
    return lines


def _by_group(result: Score) -> list[str]:
    """Figures by source and by language, a line for each."""
    lines = []
    for kind, groups in result.groups.items():
        width = max(map(len, (kind, *groups)))
        lines.append(f"  {kind:{width}}  documents       tokens  tokens/byte  nats/token  bits/byte")
        for name, each in groups.items():
            per_byte = (f"{each.tokens_per_byte:11.4f}", f"{each.bits_per_byte:9.4f}") if each.text_bytes else ("", "")
            figures = f"{per_byte[0]:>11}  {each.loss:10.4f}  {per_byte[1]:>9}".rstrip()
            lines.append(f"  {name:{width}}  {each.documents:9,}  {each.tokens:11,}  {figures}")
    return lines
