"""`banyan VERB [overrides]`: reads the command line, composes the configuration, runs the verb where it should run.

Neither torch nor Hydra is imported before something has to be run or composed.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from launch import failure, rank_environment
from launch.alerts import alerting
from launch.launchers import LAUNCHERS, become_rank, check_keys, run_here
from launch.rank_group import FORWARDED
from launch.verbs import VERBS, Verb
from trainer import __version__
from trainer.errors import STOPPED, BanyanError, ConfigError
from trainer.machine import streams
from trainer.machine.interrupt import Interrupted, interruptible, leave_to_kernel
from trainer.machine.process import raise_file_limit

ANSWERS = (0, 2, 128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes that a verb whose exit code is its result may have beside 1: a rank of it that was killed is one, too."""


@dataclass(frozen=True)
class Options:
    """What stood after a verb."""

    overrides: tuple[str, ...] = ()
    config_dir: Path | None = None
    show_config: bool = False
    multirun: bool = False
    help: str | None = None  # "" or "all"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line and returns the exit code; no exception leaves it.

    With this process's own command line (None) it ends the process itself where that is a rank that left its peers.
    """
    if arguments is None:
        streams.use_utf8()
    streams.prepare()
    threading.excepthook = _report_from_thread
    raise_file_limit()
    try:
        with interruptible(FORWARDED):
            code = _run(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        code = 141
    except (Exception, KeyboardInterrupt) as error:
        code = failure.report(failure.of_exception(error))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        streams.finish()
    if arguments is None:
        _end_as_rank(code)
    return code


def _end_as_rank(code: int) -> None:
    """Ends a rank at once that left its peers in the middle, or failed. The interpreter would wait for what it began
    with them, for half an hour, or be aborted by threads of the process group's that outlive it."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or (code in (0, STOPPED) and not distributed.is_initialized()):
        return
    atexit._run_exitfuncs()
    streams.finish()
    os._exit(code)


def _report_from_thread(uncaught: threading.ExceptHookArgs) -> None:
    """Reports why a thread of ours ends the process, whose main thread is stuck; others' errors are printed as ever."""
    if isinstance(uncaught.exc_value, BanyanError | Interrupted):
        failure.report(failure.of_exception(uncaught.exc_value))
    else:
        threading.__excepthook__(uncaught)


def read_options(verb: Verb, arguments: Sequence[str]) -> Options:
    """Separates options from overrides; `--name VALUE` and `--name=VALUE` are the same."""
    overrides: list[str] = []
    found: dict[str, Any] = {}
    rest = list(arguments)
    if rest and rest[0] in verb.commands:
        overrides.append(f"command={rest.pop(0)}")
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        name, given, value = argument.partition("=")
        if name in ("-h", "--help"):
            found["help"] = "all" if "all" in (value, *rest[:1]) else ""
            break
        if name in ("-m", "--multirun"):
            found["multirun"] = True
            continue
        if name not in ("--config-dir", "--cfg"):
            raise ConfigError(
                f"{name}: no such option of {verb.name}; there are --help, --cfg job, --config-dir DIR and --multirun."
            )
        if not given and not rest:
            raise ConfigError(f"{name} needs a value: {'job' if name == '--cfg' else 'a folder'}.")
        value = value if given else rest.pop(0)
        if name == "--config-dir":
            found["config_dir"] = Path(value)
        elif value == "job":
            found["show_config"] = True
        else:
            raise ConfigError(f"--cfg {value}: only --cfg job is known; it prints the resolved configuration.")
    return Options(tuple(overrides), **found)


def _run(arguments: list[str]) -> int:
    name, *rest = arguments or [""]
    if name in ("", "-h", "--help", "help"):
        from launch import help as pages

        print(pages.overview(), end="")
        return 0 if name else 2
    if name == "--version":
        print(f"banyan {__version__}")
        return 0
    verb = _find_verb(name)
    if not verb.on_ranks:
        leave_to_kernel(
            signal.SIGTERM, signal.SIGUSR1
        )  # nothing to let go, and worker processes that end with this one
    for command, module in verb.subcommands:
        if rest[:1] == [command]:
            return int(importlib.import_module(module).main(rest[1:]))
    if verb.schema is None:
        return int(importlib.import_module(verb.module).main(take_key(rest)))
    return _run_configured(verb, read_options(verb, rest), rest)


def take_key(arguments: Sequence[str]) -> list[str]:
    """Plain arguments without data.encryption.KEY=VALUE, by which this process can read what is encrypted."""
    from trainer.config.encryption import SECTION, Encryption, use_key_of

    given = dict.fromkeys(item.name for item in fields(Encryption))
    rest = []
    for argument in arguments:
        key, sign, value = argument.partition("=")
        name = key.removeprefix(f"{SECTION}.")
        if not sign or name == key:
            rest.append(argument)
        elif name not in given:
            raise ConfigError(f"{key}: no such setting; there are {', '.join(f'{SECTION}.{each}' for each in given)}.")
        else:
            given[name] = value
    use_key_of(Encryption(**given))
    return rest


def _find_verb(name: str) -> Verb:
    if name in VERBS:
        return VERBS[name]
    from launch.keys import nearest

    near = nearest(name, VERBS)
    hint = f"did you mean {near}? " if near else ""
    raise ConfigError(f"{name}: no such verb; {hint}Verbs: {', '.join(VERBS)}.")


def _run_configured(verb: Verb, options: Options, arguments: Sequence[str]) -> int:
    if options.help is not None:
        from launch import help as pages

        print(pages.of_verb(verb, everything=options.help == "all"), end="")
        return 0
    if verb.outlives_console and not options.show_config:
        streams.outlive_console()
    if options.multirun:
        return _run_each(verb, options)
    from launch.compose import as_yaml, compose
    from trainer.config.encryption import use_key

    config = compose(verb.name, options.overrides, options.config_dir)
    if options.show_config:
        print(as_yaml(config), end="")
        return 0
    use_key(config)
    if verb.starts_others:
        check(verb, config, 1)
        return int(importlib.import_module(verb.module).main(config, options))
    with alerting(verb, config):
        return _start(verb, config, arguments)


def _run_each(verb: Verb, options: Options) -> int:
    """Runs each combination of the overrides' lists, once all of them are known to compose."""
    from launch import multirun
    from launch.compose import compose

    jobs = multirun.jobs_of(options.overrides)
    for job in jobs:
        compose(verb.name, job, options.config_dir)
    return multirun.run(verb.name, ["--config-dir", str(options.config_dir)] if options.config_dir else [], jobs)


def _start(verb: Verb, config: Any, arguments: Sequence[str]) -> int:
    """Runs the verb: here if it needs no ranks or this process is one, otherwise through the launcher."""
    if verb.on_ranks and (not verb.alone_without or getattr(config, verb.alone_without) is not None):
        check_keys(config.launch)
        if not rank_environment.is_rank(os.environ):
            launcher = LAUNCHERS[config.launch.name]
            code = launcher.start(verb, config, arguments, lambda world_size: check(verb, config, world_size))
            return 1 if verb.answers and code not in ANSWERS else code
        become_rank(config.launch)
    check(verb, config, int(os.environ.get("WORLD_SIZE", "1")))
    if verb.name == "serve":
        check_keys(config.launch)
        return LAUNCHERS[config.launch.name].serve(verb, config, arguments)
    return run_items(verb, config) if verb.name == "prepare" else run_here(verb, config)


def run_items(verb: Verb, config: Any) -> int:
    """prepare, and what works as it does, has no ranks: its items run here, or on a Ray cluster."""
    check_keys(config.launch)
    if config.launch.processes is not None:
        raise ConfigError(f"launch.processes={config.launch.processes}: prepare has no ranks; use data.workers.")
    return LAUNCHERS[config.launch.name].prepare(verb, config)


def check(verb: Verb, config: Any, world_size: int) -> None:
    """Refuses, before anything is started, what the configuration alone shows can't be honoured."""
    from trainer.config.values import check_values
    from trainer.rules.finetune import check_finetune
    from trainer.rules.pretrain import check_pretrain

    if verb.trains:
        (check_finetune if verb.name == "finetune" else check_pretrain)(config, world_size)
        if not rank_environment.is_rank(os.environ):
            from launch.memory_check import check_memory

            check_memory(config, world_size)
    else:
        check_values(config)
