"""`python -m launch.forked FOLDER`: starts `banyan` commands, one after the other, without the imports of each.

It imports once what training needs, which takes longer than a short training, and forks a process for each line of its
input: a JSON object of `arguments`, the whole `environment`, and `log`, a file of FOLDER for what is printed. Two lines
are its answer: the process's id, and its exit code (-n for signal n) once it and all that it has started have ended.
What it has forked ends with it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

MODULES = (
    *(
        "launch.cli",
        "launch.compose",
        "hydra._internal.config_loader_impl",
        "hydra.core.override_parser.overrides_parser",
    ),
    *("trainer.verbs.pretrain", "trainer.rules.finetune", "deepspeed", "deepspeed.module_inject.auto_ep_layer"),
    *("torch.utils.cpp_extension", "rich.console"),
)


def main() -> None:
    """Until the end of its input. A forked process leaves it by the command that it is."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever imports print is no answer
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collections of forked processes, of which DeepSpeed asks for some, would touch all that was imported
    parent = os.getpid()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _become_command(json.loads(line), Path(sys.argv[1]), parent)
        print(pid, file=answers, flush=True)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its id stays its own until its group is gone
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=answers, flush=True)


def _become_command(order: dict[str, Any], folder: Path, parent: int) -> None:
    """Ends as the command does."""
    from launch.cli import main as run_command
    from trainer.machine.process import die_with

    os.setsid()
    if ask := die_with(parent):
        ask()
    log = os.open(folder / order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for source, descriptor in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(source, descriptor)
    os.environ.clear()
    os.environ.update(order["environment"])
    if _cuda_is_lost():
        os.execv(sys.executable, [sys.executable, "-P", "-m", "launch", *order["arguments"]])
    sys.argv = ["banyan", *order["arguments"]]
    sys.exit(run_command())


def _cuda_is_lost() -> bool:
    """Whether CUDA's driver was asked before the fork, after which a forked process gets nothing from it."""
    import torch

    return torch.cuda._is_in_bad_fork()


if __name__ == "__main__":
    main()
