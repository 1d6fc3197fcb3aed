"""The commands of docs/EVALUATE.md, run as written on a small model; in short runs on one process."""

import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main as banyan
from tests.corpus import WORDS
from tests.prepared import prepare, write_jsonl
from tests.run_ranks import pretrain, run_ranks, small_config

DOCS = (Path(__file__).parents[2] / "docs" / "EVALUATE.md").read_text(encoding="utf-8").replace("\\\n", "")
COMMANDS = [" ".join(command.split()) for command in re.findall(r"^\$ banyan (.*)$", DOCS, re.MULTILINE)]
FILES = dict(re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL))
SMALL = (
    "model.hidden_size=48 model.intermediate_size=96 model.num_hidden_layers=2 model.num_attention_heads=4 "
    "model.num_key_value_heads=2 train.batch_size=4 train.micro_batch_size=2 evaluate.prompt=null "
    "track.wandb.mode=disabled schedule.warmup_steps=1"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the page speaks of: a run with two checkpoints, its data, and the task files with theirs."""
    base, draw = tmp_path_factory.mktemp("docs"), random.Random(3)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(30, 80))) for _ in range(60)]
    data = prepare(write_jsonl(base / "texts.jsonl", texts), base / "data", validation_fraction=0.3)
    config = small_config(data, base / "runs" / "demo", train__steps=4, data__sequence_length=96, checkpoint__every=2)
    assert run_ranks(pretrain, config, 1) == [0]
    shutil.copytree(base / "runs" / "demo", base / "runs" / "mixed")
    for name, content in FILES.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(content)
    for name, count in (("sms", 12), ("sms-train", 8)):
        records = [{"text": " ".join(draw.choices(WORDS, k=3)), "label": n % 2} for n in range(count)]
        (base / "my_tasks" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (base / "my_tasks" / "sums.jsonl").write_text(json.dumps({"prompt": "def f(): ", "test": "assert f() == 1"}) + "\n")
    return base


def as_here(command: str, *, full: bool) -> list[str]:
    """Its words, with the small model's checkpoint, and unless it is a full run on one process."""
    command = command.replace("checkpoint.step=30", "checkpoint.step=2").replace(" … ", f" {SMALL} ")
    if not full:
        command = command.replace("launch.processes=2", "")
    if "bwrap" in command and not bwrap_works():
        command = re.sub(r'"bwrap .*"', f'"{sys.executable} -I -"', command)
    if command.startswith("pretrain"):  # the tasks of a package that isn't here
        command = re.sub(r"\[olmes[^]]*\]", "[sms] evaluate.task_dir=my_tasks", command)
        command = command.replace("olmes_arc_easy/acc_norm", "sms/acc")
    return shlex.split(command)


def bwrap_works() -> bool:
    """Whether it is here, and may make namespaces."""
    if shutil.which("bwrap") is None:
        return False
    return (
        subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], capture_output=True).returncode == 0
    )


def test_each_command_of_the_page_runs_in_turn(folder, monkeypatch, capsys, request):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "datasets"))
    full = bool(request.config.getoption("--full"))
    assert len(COMMANDS) >= 8
    for command in COMMANDS:
        if command.startswith("pretrain") and not full:
            continue
        assert banyan(as_here(command, full=full)) == 0, command
    printed = capsys.readouterr().out
    assert "sms_theirs  acc" in printed
    assert "sums  pass@10" in printed
    assert "| sms | acc | 12 |" in printed
    assert (folder / "difference.html").is_file()
    assert (folder / "runs" / "demo" / "evaluations" / "step-00000004" / "memorisation.json").is_file()


def test_every_command_and_key_of_the_page_is_there():
    verbs = {command.split()[0] for command in COMMANDS}
    assert verbs == {"evaluate", "pretrain"}
    assert set(FILES) == {"my_tasks/sms.yaml", "my_tasks/sms_theirs.yaml", "my_tasks/sums.yaml"}
    from trainer.evaluate.metrics.metric import METRICS
    from trainer.evaluate.tasks.task_file import TaskFile

    table = {name for row in re.findall(r"^\| (`.*?) \| ", DOCS, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert {name for name in METRICS if not re.search(r"_(micro|macro|by_class)$", name)} - table <= {
        "stereotype_preferred",  # of section 5
        "likelihood_gap",
        "mean_bits_per_byte",  # in the row of bits_per_byte
    }
    assert set(TaskFile.__dataclass_fields__) - {"task", "path", "shots_separator"} <= set(re.findall(r"\w+", DOCS))


HIDDEN = "import sys; sys.modules['lm_eval'] = None; from launch.cli import main; sys.exit(main())"


def test_without_lm_eval_its_tasks_are_refused_in_a_line_and_ours_run(folder):
    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", HIDDEN, "evaluate", "run.dir=runs/demo", *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)

    refused = run("evaluate.tasks=[bias_en,hellaswag]")
    assert refused.returncode == 2, refused.stderr
    assert refused.stdout == ""
    assert refused.stderr.splitlines()[-1] == (
        "banyan: evaluate.tasks: hellaswag: no such task; if it is one of lm-evaluation-harness, lm-eval isn't "
        "installed: pip install 'banyan-train[eval]'; did you mean olmes_hellaswag?"
    )
    assert len(refused.stderr.splitlines()) == 1
    ours = run("evaluate.tasks=[bias_en]", "evaluate.output=ours")
    assert ours.returncode == 0, ours.stderr
    assert "stereotype_preferred" in ours.stdout
