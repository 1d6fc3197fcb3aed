"""`banyan VERB --multirun key=a,b`: every combination of the comma lists, one run after the other, in order.

    banyan pretrain --multirun optimizer.lr=1e-3,2e-3 model=tiny,moe_tiny

Lists are Hydra's, split by its own sweeper. For more than a few short runs, `banyan sweep` stops the bad ones early.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from launch.overrides import VERBATIM
from launch.rank_group import FORWARDED
from trainer.errors import ConfigError
from trainer.machine.process import die_with

_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")
ONE_EACH = ("run.name", "run.dir")


def jobs_of(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each run. ConfigError where there is nothing to combine, or all runs would be one."""
    choices = [_choices(override) for override in overrides]
    if all(len(found) == 1 for found in choices):
        raise ConfigError("--multirun: no override has a list; write key=a,b.")
    for override, found in zip(overrides, choices, strict=True):
        name = override.lstrip("+").partition("=")[0]
        if name in ONE_EACH and len(found) == 1 and "${" not in override:
            raise ConfigError(f"{override}: with --multirun every run needs its own; leave {name} out.")
    combined: list[list[str]] = [[]]
    for found in choices:
        combined = [[*job, choice] for job in combined for choice in found]
    return combined


def run(verb: str, options: Sequence[str], jobs: Sequence[Sequence[str]]) -> int:
    """Runs every job, each in a process of its own. The first exit code that isn't 0 ends it and is returned: the same
    command again goes on there, since runs that are finished say so at once."""
    for number, job in enumerate(jobs, start=1):
        print(f"run {number} of {len(jobs)}: {' '.join(job)}", flush=True)
        if code := run_one([sys.executable, "-P", "-m", "launch", verb, *options, *job]):
            return code
    return 0


def run_one(command: Sequence[str]) -> int:
    """Runs a command to its end, which gets the signals that this process gets, and doesn't outlive it."""
    process = subprocess.Popen(command, start_new_session=True, preexec_fn=die_with(os.getpid()))
    before = {number: signal.signal(number, lambda received, _: process.send_signal(received)) for number in FORWARDED}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _unescaped(job: str) -> str:
    """Text as it would have been typed: Hydra has put backslashes before what means something to it, as in s3\\://x."""
    name, _, value = job.partition("=")
    return job if value[:1] in "[{'\"" else f"{name}={_ESCAPED.sub(lambda found: found[1], value)}"


def _choices(override: str) -> list[str]:
    """The override for each value of its list; itself where Hydra sees none."""
    if override.lstrip("+~").partition("=")[0] in VERBATIM:
        return [override]
    try:
        parsed = OverridesParser.create().parse_override(override)
        if not parsed.is_sweep_override():
            return [override]
        return [_unescaped(job) for batch in BasicSweeper.split_arguments([parsed], None) for (job,) in batch]
    except HydraException:
        return [override]  # text that isn't Hydra's: compose looks at it
