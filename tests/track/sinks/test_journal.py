import json
import math
import os
import random
import tracemalloc
import types

import pytest

from trainer.errors import InputError, StorageError
from trainer.track.sinks.journal import (
    METRICS,
    SAMPLES,
    Journal,
    encode,
    end_of_step,
    metric_row,
    read_metrics,
    read_rows,
    sample_row,
)
from trainer.track.sinks.journals import JournalSink


def write_run(run_dir, steps):
    for name in (METRICS, SAMPLES):
        journal = Journal(run_dir / name)
        for step in steps:
            row = metric_row(step=step, tokens=step * 10, metrics={"train/loss": 1.0 / step})
            journal.write(row if name == METRICS else sample_row(step=step, name="s", text=f"é\n{step}"))
        journal.close()


def cut_journals(run_dir, step):
    """As a start does that goes on from a step."""
    JournalSink(run_dir, step).close(exit_code=0, summary={})


def steps_of(path):
    return [row["step"] for row in read_rows(path)]


def refuse_constant(name):
    raise AssertionError(f"{name} is not JSON")


def test_a_written_row_is_on_disk_before_the_file_is_closed(tmp_path):
    journal = Journal(tmp_path / METRICS)
    journal.write(metric_row(step=1, tokens=2, metrics={"train/loss": 3.5}))
    row = json.loads((tmp_path / METRICS).read_text())
    assert (row["step"], row["tokens"], row["train/loss"]) == (1, 2, 3.5)
    journal.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_null_for_strict_parsers_and_nan_for_us(tmp_path, value):
    journal = Journal(tmp_path / METRICS)
    journal.write(metric_row(step=1, tokens=2, metrics={"train/loss": value}))
    journal.close()
    row = json.loads((tmp_path / METRICS).read_text(), parse_constant=refuse_constant)
    assert row["train/loss"] is None
    assert math.isnan(read_metrics(tmp_path)[0]["train/loss"])


def test_a_resume_keeps_rows_up_to_the_restored_step_and_no_later_ones(tmp_path):
    write_run(tmp_path, [10, 20, 30, 40])
    before = (tmp_path / METRICS).read_text().splitlines()
    cut_journals(tmp_path, 20)
    assert (tmp_path / METRICS).read_text().splitlines() == before[:2]
    assert steps_of(tmp_path / METRICS) == steps_of(tmp_path / SAMPLES) == [10, 20]


def test_a_start_from_nothing_cuts_everything(tmp_path):
    write_run(tmp_path, [10, 20])
    cut_journals(tmp_path, 0)
    assert (tmp_path / METRICS).read_text() == (tmp_path / SAMPLES).read_text() == ""


@pytest.mark.parametrize("torn", [b'{"step": 30, "tok', b'{"step": 30, "text": "\xc3', b"\0\0\0"])
def test_a_line_torn_by_a_kill_is_cut_off(tmp_path, torn):
    write_run(tmp_path, [10, 20])
    with (tmp_path / METRICS).open("ab") as file:
        file.write(torn)
    cut_journals(tmp_path, 100)
    write_run(tmp_path, [110])
    assert steps_of(tmp_path / METRICS) == [10, 20, 110]


def test_lines_of_layers_are_cut_as_rows_are(tmp_path):
    lines = [{"step": step, "tokens": 1, "time": 1.0, "layers": ["0"], "grad_norm": [0.1]} for step in range(1, 9)]
    (tmp_path / "layers.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    cut_journals(tmp_path, 5)
    kept = [json.loads(line) for line in (tmp_path / "layers.jsonl").read_text().splitlines()]
    assert kept == lines[:5]


def test_garbage_in_the_middle_is_named_and_left_alone(tmp_path):
    write_run(tmp_path, [10])
    with (tmp_path / METRICS).open("a") as file:
        file.write("garbage\n")
    write_run(tmp_path, [20])
    content = (tmp_path / METRICS).read_bytes()
    with pytest.raises(InputError, match=r"metrics\.jsonl, byte \d+: .*Remove that line"):
        cut_journals(tmp_path, 20)
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: .*Remove that line"):
        read_rows(tmp_path / METRICS)
    assert (tmp_path / METRICS).read_bytes() == content


@pytest.mark.parametrize("seed", range(20))
def test_a_cut_is_found_without_reading_all_rows(tmp_path, seed):
    draw, path = random.Random(seed), tmp_path / METRICS
    steps = sorted(draw.choices(range(1, 60), k=draw.randint(0, 80)))
    rows = [{"step": step, "tokens": 1, "time": 0.0, "x" * draw.choice([1, 10, 9000]): 1.0} for step in steps]
    torn = draw.choice([b"", b'{"step": 99, "tok', b"\n"])
    content = b"".join(encode(row).encode() + b"\n" for row in rows) + torn
    for step in (1, 20, 59, 100):
        path.write_bytes(content)
        assert [row["step"] for row in read_rows(path, after=step)] == [each for each in steps if each > step]
        cut_journals(tmp_path, step)
        assert steps_of(path) == [each for each in steps if each <= step]


def test_the_end_of_a_step_costs_a_few_reads_of_a_long_journal(tmp_path):
    path = tmp_path / METRICS
    path.write_text("".join(encode({"step": step, "tokens": step, "time": 0.0}) + "\n" for step in range(1, 100_001)))
    with path.open("rb", buffering=0) as file:
        reads = []
        counted = types.SimpleNamespace(
            seek=file.seek, readline=file.readline, read=lambda size: reads.append(size) or file.read(size)
        )
        file.seek(end_of_step(path, counted, 77_777))
        assert json.loads(file.readline())["step"] == 77_778
    assert sum(reads) < 200_000 < path.stat().st_size


def test_a_full_disk_is_one_clear_error():
    from pathlib import Path

    journal = Journal(Path("/dev/full"))
    with pytest.raises(StorageError, match="No space left"):
        journal.write({"step": 1})


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("elsewhere"), lambda path: path.mkdir(), os.mkfifo])
def test_rows_go_to_a_file_of_the_run_and_nowhere_else(tmp_path, make):
    make(tmp_path / METRICS)
    with pytest.raises(InputError, match="a link, a folder or a pipe"):
        Journal(tmp_path / METRICS)
    assert not (tmp_path / "elsewhere").exists()


def test_reading_takes_room_for_what_is_there(tmp_path):
    write_run(tmp_path, range(1, 9))
    journal = Journal(tmp_path / METRICS)
    tracemalloc.start()
    try:
        assert [row["step"] for row in journal.rows_after(4)] == [5, 6, 7, 8]
        assert len(read_metrics(tmp_path, after=2)) == 6
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()
        journal.close()
