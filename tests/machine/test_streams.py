"""Standard output and error that end no command, whatever becomes of them."""

import json
import os
import subprocess
import sys

import pytest

from tests.run_ranks import run_ranks

PROGRAM = """
import logging, sys
from trainer.machine import streams
streams.prepare()
streams.outlive_console()
print("first", flush=True)
for number in range(3):
    print("é 床 😀" * 20_000, flush=True)
    print("error", file=sys.stderr)
logging.basicConfig(filename=sys.argv[1], encoding="utf-8")
streams.note_losses_in(logging.getLogger("banyan"))
print("x" * 20_000, flush=True)
streams.finish()
open(sys.argv[1] + ".done", "w", encoding="utf-8").close()
"""


def shell(tmp_path, tail, **variables):
    """Runs the program in a shell, `tail` after it; the shell's output, and the log if it came to its end."""
    command = f'"$PYTHON" -P -c "$PROGRAM" "$LOG" {tail}; exit ${{PIPESTATUS[0]}}'
    known = {"PYTHON": sys.executable, "PROGRAM": PROGRAM, "LOG": str(tmp_path / "log")}
    done = subprocess.run(
        ["bash", "-c", command], env={**os.environ, **known, **variables}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "log.done").exists()
    return done, (tmp_path / "log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ("| head -1", ["standard output can't be written any more (Broken pipe)"]),
        ("2>&1 | head -1", ["standard output can't", "standard error can't"]),
        ("> /dev/full", ["standard output can't be written any more (No space left on device)"]),
        (">&-", ["standard output was closed"]),
        (">&- 2>&- <&-", ["standard output was closed", "standard error was closed"]),
        ("2>&-", ["standard error was closed"]),
    ],
)
def test_a_console_that_is_gone_is_noted_and_ends_nothing(tmp_path, tail, message):
    _, log = shell(tmp_path, tail)
    assert len(log.splitlines()) == len(message)
    assert all(line in log for line in message)


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_what_a_console_can_not_show_is_shown_otherwise(tmp_path, encoding):
    done, log = shell(tmp_path, "", PYTHONIOENCODING=encoding)
    assert done.stdout.decode(encoding).count("床" if encoding != "ascii" else "? ? ?") == 60_000
    assert log == ""


def command(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-P", "-m", "launch", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        timeout=120,
    )


def test_paths_of_any_script_are_known_in_the_c_locale(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = command("data", "stats", str(tmp_path / "数据"), **plain)
    assert done.returncode == 2
    assert "数据" in done.stderr.decode()
    done = command("pretrain", "run.dir=x/运行", "--cfg", "job", **plain)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "dir: x/运行\n" in done.stdout.decode()


def test_other_commands_end_quietly_when_nobody_reads(tmp_path):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launch", "--help"], stdout=write, stderr=subprocess.PIPE, timeout=120
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "launch", "--help"], stdout=full, stderr=subprocess.PIPE, timeout=120
        )
    assert done.returncode == 1
    assert done.stderr.decode().startswith("banyan: the disk is full")


def train_without_a_reader(arguments):
    """A whole run whose reader is gone from the first line on."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)
    from launch import cli

    return cli.main(arguments)


def test_training_goes_on_without_a_reader(corpus, tmp_path):
    run_dir = tmp_path / "run"
    arguments = [
        *("pretrain", f"data.path={corpus}", f"run.dir={run_dir}", "train.steps=3", "train.batch_size=4"),
        *("model.hidden_size=16", "model.num_hidden_layers=1", "data.sequence_length=16", "evaluate.every=0"),
        *("evaluate.prompt=null", "track.every=1", "track.wandb.mode=disabled", "checkpoint.every=0"),
    ]
    assert run_ranks(train_without_a_reader, arguments, 1) == [0]
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-00000003"]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert "standard output can't be written any more" in (run_dir / "logs" / "rank-00000.log").read_text()
