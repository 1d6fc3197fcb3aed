"""The logs of all ranks of a run as one: the first error first, then the last lines, then what comes.

    banyan logs RUN_DIR [follow=false] [lines=100]

It ends when the run does, and waits for one that a SLURM job is in the queue for; follow=false prints what there is
and ends.
"""

from __future__ import annotations

import time
from pathlib import Path

from trainer.errors import ConfigError
from trainer.machine.terminal import show
from trainer.run.log_lines import LogEntry, LogFile, first_error, last_entries, open_logs
from trainer.run.queue import look_up
from trainer.run.status import LIVING, read_status
from trainer.run.subcommand import split_arguments
from trainer.track.sinks.starts import read_lives

USAGE = "banyan logs RUN_DIR [follow=false] [lines=100]"
POLL_S = 0.5
QUEUE_S = 30.0  # between questions to the queue
FLAGS = {"true": True, "false": False}


def main(arguments: list[str]) -> int:
    """The verb."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\n{(__doc__ or '').split('[lines=100]', 1)[1].strip()}")
        return 0
    folders, given = split_arguments(arguments, {"follow": "true", "lines": "100"}, USAGE)
    if len(folders) != 1:
        raise ConfigError(f"logs takes one run directory, {len(folders)} given: {USAGE}.")
    if given["follow"] not in FLAGS:
        raise ConfigError(f"follow={given['follow']}: give true or false.")
    if not given["lines"].isdecimal() or not 0 < int(given["lines"]) <= 1_000_000:
        raise ConfigError(f"lines={given['lines']}: give a whole number from 1 to 1,000,000.")
    run_dir = Path(folders[0]).expanduser()
    if not run_dir.is_dir():
        raise ConfigError(f"{folders[0]}: there is no such folder; name a run directory, as in banyan logs runs/NAME.")
    logs = open_logs(run_dir)
    if not logs:
        raise ConfigError(f"{run_dir}: no logs there; name a run directory, as in banyan logs runs/NAME.")
    lives = read_lives(run_dir)
    error = first_error(run_dir, lives[-1].start.time - 1 if lives else 0.0)
    if error is not None:
        show(f"first error, {error.source}:")
        _print(error)
        show("")
    for entry in last_entries(logs, int(given["lines"])):
        _print(entry)
    if FLAGS[given["follow"]]:
        _follow(run_dir, {log.path: log for log in logs})
    return 0


def _follow(run_dir: Path, logs: dict[Path, LogFile]) -> None:
    """Prints what comes, of ranks that come later too, until nobody works on the run, and no job of it waits."""
    while True:
        living = read_status(run_dir).state in LIVING
        for log in open_logs(run_dir):
            logs.setdefault(log.path, log)
        entries = [entry for log in logs.values() for entry in log.read()]
        for entry in sorted(entries, key=lambda entry: entry.time):
            _print(entry)
        if not living and run_dir not in look_up([run_dir]):
            return
        time.sleep(POLL_S if living else QUEUE_S)


def _print(entry: LogEntry) -> None:
    for line in entry.lines():
        show(line)
