"""Logs of all ranks as one: the first error first, rotated, followed, and safe to show."""

import logging
import sys

import pytest

from trainer.errors import ConfigError
from trainer.run import rank_log
from trainer.run.log_lines import LogFile, first_error, last_entries, last_said, open_logs
from trainer.run.rank_log import RankLog
from trainer.verbs import logs


@pytest.fixture
def run_dir(tmp_path):
    (tmp_path / "logs").mkdir()
    return tmp_path


@pytest.fixture
def kept_loggers():
    loggers = [logging.getLogger(name) for name in (None, "DeepSpeed")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    logging.captureWarnings(capture=False)
    for logger, handlers, level in before:
        logger.handlers[:], logger.level = handlers, level


def write(run_dir, name, *lines):
    with (run_dir / "logs" / name).open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def fail_as_rank(run_dir, rank):
    with RankLog() as log:
        log.open(run_dir, rank)
        print("step 1", end="")
        print("/9 precious-precious")
        sys.stderr.write("\x1b[2K bar\rbar\n")
        print("careful", file=sys.stderr)
        raise ValueError("spoilt")


def test_what_a_rank_prints_and_why_it_fails_is_kept(run_dir, kept_loggers, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "precious-precious")
    out = sys.stdout
    with pytest.raises(ValueError, match="spoilt"):
        fail_as_rank(run_dir, 3)
    assert sys.stdout is out
    assert capsys.readouterr().out == "step 1/9 precious-precious\n"
    text = (run_dir / "logs" / "rank-00003.log").read_text()
    assert "INFO banyan.stdout: step 1/9" in text
    assert "WARNING banyan.stderr: careful" in text
    assert "ERROR banyan.failed: ValueError: spoilt\nTraceback" in text
    assert "bar" not in text
    assert "precious" not in text
    (entry,) = [entry for entry in LogFile(run_dir / "logs" / "rank-00003.log").read() if entry.is_error]
    assert (entry.source, entry.text.split("\n")[0]) == ("rank 3", "ValueError: spoilt")


def test_a_log_is_bounded(run_dir, kept_loggers, monkeypatch, capsys):
    monkeypatch.setattr(rank_log, "MOST_BYTES", 10_000)
    with RankLog() as log:
        log.open(run_dir, 0)
        for number in range(1000):
            print(f"line {number}")
    sizes = {path.name: path.stat().st_size for path in (run_dir / "logs").iterdir()}
    assert set(sizes) == {"rank-00000.log", "rank-00000.log.1"}
    assert max(sizes.values()) <= 10_000
    assert last_said(run_dir, 1) == ["line 999"]
    assert "line 0\n" in capsys.readouterr().out


def test_the_first_error_of_all_ranks_is_found_and_a_kill_goes_before_what_it_caused(run_dir):
    write(
        run_dir, "rank-00000.log", "2026-01-01 00:00:05,000 ERROR banyan.failed: RuntimeError: peer gone", "  a trace"
    )
    write(run_dir, "rank-00002.log", "2026-01-01 00:00:04,900 ERROR banyan.failed: OSError: broken", "  its trace")
    write(run_dir, "rank-00001.log", "2026-01-01 00:00:01,000 INFO banyan.stdout: fine")
    found = first_error(run_dir, 0.0)
    assert (found.source, found.text) == ("rank 2", "OSError: broken\n  its trace")
    write(run_dir, "launcher.log", "2026-01-01 00:00:05,100 ERROR banyan.launcher: rank 1 was killed by SIGKILL.")
    assert first_error(run_dir, 0.0).source == "launcher"
    assert first_error(run_dir, found.time + 1000) is None
    entries = last_entries(open_logs(run_dir), 3)
    assert [entry.source for entry in entries] == ["rank 2", "rank 0", "launcher"]


def test_a_crash_in_native_code_counts_as_an_error(run_dir):
    write(run_dir, "rank-00000.log", "2026-01-01 00:00:01,000 INFO a: b", "Fatal Python error: Segmentation fault", "x")
    assert first_error(run_dir, 0.0).text.startswith("Fatal Python error")


def test_a_log_is_read_on_from_where_it_was_left_and_anew_when_rotated(run_dir):
    write(run_dir, "rank-00000.log", "2026-01-01 00:00:01,000 INFO a: one")
    log = LogFile(run_dir / "logs" / "rank-00000.log")
    assert [entry.text for entry in log.read()] == ["one"]
    assert list(log.read()) == []
    with log.path.open("a") as file:
        file.write("2026-01-01 00:00:02,000 INFO a: tw")
    assert list(log.read()) == []
    write(run_dir, "rank-00000.log", "o")
    assert [entry.text for entry in log.read()] == ["two"]
    log.path.rename(run_dir / "logs" / "rank-00000.log.1")
    write(run_dir, "rank-00000.log", "2026-01-01 00:00:03,000 INFO a: three")
    assert [entry.text for entry in log.read()] == ["three"]


def test_what_steers_a_terminal_is_shown_not_obeyed(run_dir, capsys):
    write(run_dir, "rank-00000.log", "2026-01-01 00:00:01,000 INFO a: \x1b[31mred")
    assert logs.main([str(run_dir), "follow=false"]) == 0
    assert r"\x1b[31mred" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes one run directory"),
        (["nowhere"], "there is no such folder"),
        (["RUN", "follow=perhaps"], "follow=perhaps: give true or false"),
        (["RUN", "lines=-1"], "lines=-1: give a whole number"),
        (["RUN"], "no logs there"),
    ],
)
def test_what_cant_be_done_is_said_in_a_line(run_dir, arguments, said):
    with pytest.raises(ConfigError, match=said):
        logs.main([argument.replace("RUN", str(run_dir)) for argument in arguments])
