"""The command line: help without heavy imports, options, and how errors are told. Verbs are stand-ins."""

import json
import os
import subprocess
import sys

import pytest

from launch import failure
from launch.verbs import VERBS

RANK_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def banyan(*arguments, stand_in="", **variables):
    """Runs `banyan ARGUMENTS` in a process of its own; `stand_in` is the body of every verb's main(config)."""
    program = [
        "import sys, os, types",
        "from launch.verbs import VERBS",
        "from launch.cli import main",
        f"def stand_in(config):\n    {stand_in or 'return 0'}",
        "for verb in VERBS.values():",
        "    sys.modules[verb.module] = types.SimpleNamespace(main=stand_in)",
        "code = main()",
        "heavy = {'torch', 'hydra', 'omegaconf', 'deepspeed'} & set(sys.modules)",
        "print('heavy:', *sorted(heavy), file=sys.stderr) if heavy else None",
        "sys.exit(code)",
    ]
    clean = {name: value for name, value in os.environ.items() if name not in (*RANK_VARIABLES, "OMP_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", "\n".join(program), *arguments],
        env={**clean, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def one_line(result):
    lines = [line for line in result.stderr.splitlines() if not line.startswith("heavy:")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["pretrain", "--help"], ["pretrain", "--help", "all"]])
def test_help_is_quick_and_imports_nothing_heavy(arguments):
    before = os.times()
    result = banyan(*arguments)
    after = os.times()
    assert (result.returncode, result.stderr) == (0, "")
    processor_seconds = after.children_user - before.children_user + after.children_system - before.children_system
    assert processor_seconds < 0.7  # of the processor: others may be using the machine
    for word in ("evaluate", "optimizer   adamw*", "train.steps", "sequences", "Optimiser steps"):
        assert word in result.stdout


def test_help_shows_the_defaults_that_hold_and_all_keys_when_asked():
    short, long = banyan("pretrain", "--help").stdout, banyan("pretrain", "--help", "all").stdout
    assert next(line for line in short.splitlines() if "train.steps" in line).split()[1:3] == ["760", "steps"]
    assert "model.rope_theta" not in short
    assert "model.rope_theta" in long


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.schema])
def test_every_configured_verb_has_help(verb):
    assert VERBS[verb].sentence in banyan(verb, "--help").stdout


def test_version_and_mistyped_verbs_and_options():
    assert banyan("--version").stdout.startswith("banyan ")
    assert banyan().returncode == 2
    assert "did you mean pretrain?" in one_line(banyan("pretrian"))
    assert banyan("pretrian").returncode == 2
    assert "no such option" in one_line(banyan("pretrain", "--confg", "job"))
    assert "needs a value" in one_line(banyan("pretrain", "--cfg"))


def test_cfg_job_prints_the_configuration_and_runs_nothing():
    result = banyan("pretrain", "--cfg", "job", "train.steps=5", stand_in="raise SystemExit(9)")
    assert result.returncode == 0
    assert "steps: 5" in result.stdout
    assert "heavy: hydra omegaconf" in result.stderr


def test_bad_configuration_is_one_line_and_2():
    result = banyan("pretrain", "train.stepz=5")
    assert result.returncode == 2
    assert one_line(result).startswith("banyan: train.stepz: ")


def test_configuration_is_checked_before_anything_starts():
    result = banyan("pretrain", "launch.processes=3", "train.batch_size=16", stand_in="raise SystemExit(9)")
    assert result.returncode == 2
    assert "3 ranks" in one_line(result)


@pytest.mark.parametrize(
    ("stand_in", "code", "answer"),
    [
        ("return 85", 85, ""),
        ("from trainer.errors import StorageError; raise StorageError('gone')", 1, "banyan: gone"),
        ("raise OSError(28, 'No space left on device', '/x')", 1, "banyan: the disk is full while writing /x"),
        ("raise PermissionError(13, 'Permission denied', '/x')", 1, "banyan: /x: access isn't permitted"),
        ("raise IsADirectoryError(21, 'Is a directory', '/x')", 1, "banyan: /x: a folder where a file belongs"),
        ("raise KeyboardInterrupt", 130, "banyan: interrupted"),
        ("raise ValueError('odd')", 1, "ValueError: odd"),
    ],
)
def test_how_a_verb_ends_is_the_exit_code(stand_in, code, answer):
    result = banyan("generate", stand_in=stand_in)
    assert result.returncode == code
    assert answer in result.stderr
    assert ("Traceback" in result.stderr) == ("ValueError" in stand_in)


SHOW_ENVIRONMENT = "import json; print(json.dumps(dict(os.environ))); return 0"


def test_one_process_is_a_rank_here():
    result = banyan("pretrain", "launch.threads=1", stand_in=SHOW_ENVIRONMENT)
    environment = json.loads(result.stdout)
    assert [environment[name] for name in RANK_VARIABLES[:5]] == ["0", "0", "1", "1", "127.0.0.1"]
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["GOMP_SPINCOUNT"] == "10000"


def test_a_rank_started_by_others_runs_the_verb_itself():
    others = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "5"}
    environment = json.loads(banyan("pretrain", stand_in=SHOW_ENVIRONMENT, **others).stdout)
    assert {name: environment[name] for name in others} == others
    refused = banyan("pretrain", "launch.processes=4", stand_in=SHOW_ENVIRONMENT, **others)
    assert refused.returncode == 2
    assert "launch.processes=4" in one_line(refused)


@pytest.fixture
def two_ranks(tmp_path):
    """Runs `banyan pretrain launch.processes=2` with a stand-in for the verb, which ranks find by sitecustomize."""

    def run(body):
        source = f"import os, sys, types\ndef main(config):\n    {body}\n"
        stand_in = "sys.modules['trainer.verbs.pretrain'] = types.SimpleNamespace(main=main)\n"
        (tmp_path / "sitecustomize.py").write_text(source + stand_in)
        return banyan("pretrain", "launch.processes=2", "evaluate.prompt=a b=c", PYTHONPATH=str(tmp_path))

    return run


def test_two_processes_run_the_verb_with_the_same_configuration(two_ranks):
    result = two_ranks("print(os.environ['RANK'], 'of', os.environ['WORLD_SIZE'], config.evaluate.prompt); return 85")
    assert (result.returncode, result.stdout) == (85, "0 of 2 a b=c\n")


def test_an_error_on_one_of_two_ranks_is_one_line(two_ranks):
    result = two_ranks("from trainer.errors import InputError; raise InputError('shard-000001.tar: gone.')")
    assert result.returncode == 2
    assert one_line(result) == "banyan: shard-000001.tar: gone."


def test_under_the_launcher_a_rank_leaves_its_error_and_prints_nothing(tmp_path):
    file = tmp_path / "error"
    result = banyan("pretrain", "lr=3", BANYAN_ERROR_FILE=str(file))
    assert result.returncode == 2
    assert "banyan:" not in result.stderr
    assert failure.read(file).message.endswith("did you mean optimizer.lr?")


def test_verbs_with_plain_arguments_get_them_unread():
    result = banyan("data", "at", "runs/x", "step=3", stand_in="print(config); return 0")
    assert result.stdout.strip() == "['at', 'runs/x', 'step=3']"
