import io
import logging

import pytest

from trainer.track.sinks.console import (
    BarConsole,
    Pace,
    PlainConsole,
    QuietConsole,
    duration,
    evaluation_lines,
    learning_rate,
    open_console,
    training_line,
)

ROW = {"train/loss": 4.8119, "train/grad_norm": 0.93, "train/lr": 2.9e-4, "perf/tokens_per_second": 5812.4}


def test_a_plain_line_has_all_that_one_watches():
    line = training_line(120, 450, ROW, 68.2)
    assert line == "step 120/450  loss 4.812  grad 0.93  lr 2.9e-4  5,812 tok/s  left 1m08s"


def test_what_isnt_measured_is_left_out():
    assert training_line(5, 450, {"train/loss": 4.8}, None) == "step   5/450  loss 4.800"


def test_each_evaluated_set_gets_a_line():
    metrics = {"eval/validation/loss": 4.7, "eval/validation/bits_per_byte": 1.923, "eval/wiki/loss": 5.0}
    for group, value in {"source/web": 2.0, "source/books": 1.5, "language/zh": 2.5}.items():
        metrics[f"eval/validation/{group}/bits_per_byte"] = value
        metrics[f"eval/validation/{group}/tokens_per_byte"] = 0.3
    assert evaluation_lines(120, 450, metrics) == [
        "step 120/450  validation loss 4.700  1.923 bits/byte",
        "step 120/450  wiki loss 5.000",
        "step 120/450  validation by source, bits/byte: web 2.000, books 1.500",
        "step 120/450  validation by language, bits/byte: zh 2.500",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.9, "1m00s"), (68, "1m08s"), (7500, "2h05m"), (3 * 86400 + 4 * 3600, "3d04h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_learning_rates_are_short():
    assert [learning_rate(value) for value in (2.9e-4, 0.0, 1e-10)] == ["2.9e-4", "0.0e0", "1.0e-10"]


def test_time_left_ignores_how_long_the_first_step_took():
    pace = Pace(total_steps=110)
    assert pace.seconds_left(10, now_s=100.0) is None
    assert pace.seconds_left(20, now_s=105.0) == pytest.approx(45.0)
    assert pace.seconds_left(110, now_s=150.0) == 0


def test_off_a_terminal_there_are_plain_lines(capsys):
    console = open_console(total_steps=450, start_step=0)
    assert isinstance(console, PlainConsole)
    console.row({"step": 120} | ROW | {"eval/validation/loss": 4.7})
    console.progress(121)
    console.note("[a] note")
    console.close(exit_code=0, summary={})
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("step 120/450  loss 4.812")
    assert out[1:] == ["step 120/450  validation loss 4.700", "[a] note"]


def test_on_a_terminal_there_is_a_bar_with_loss_speed_and_time_left():
    from rich.console import Console

    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    console = BarConsole(terminal, Pace(total_steps=450), start_step=100)
    console.row({"step": 110} | ROW)
    console.progress(120)
    console.note("[bold]a note[/bold] with brackets")
    console.row({"step": 120, "eval/validation/loss": 4.7})
    console.close(exit_code=0, summary={})
    shown = screen.getvalue()
    for text in ("120/450", "loss 4.812", "5,812 tok/s", "left ", "validation loss 4.700", "[bold]a note[/bold]"):
        assert text in shown


def test_quiet_prints_what_goes_wrong_alone_and_logs_the_rest(capsys, caplog):
    caplog.set_level(logging.INFO, "banyan.console")
    console = QuietConsole(Pace(total_steps=450))
    console.row({"step": 120} | ROW | {"eval/validation/loss": 4.7})
    console.progress(121)
    console.note("a note")
    assert capsys.readouterr().out == "a note\n"
    assert caplog.messages[0].startswith("step 120/450  loss 4.812")
    assert caplog.messages[1] == "step 120/450  validation loss 4.700"
