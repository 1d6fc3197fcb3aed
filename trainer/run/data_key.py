"""`banyan data rekey`: another user's key for what is encrypted, of data or of a run."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from trainer.config.run import Run
from trainer.data.rekey import encrypt_anew, rekey
from trainer.data.text.plan import FILE as PLAN
from trainer.data.text.plan import exclusive
from trainer.errors import ConfigError, InputError
from trainer.machine.sealing.user_key import KeySource
from trainer.machine.terminal import show
from trainer.run.lock import RunLock
from trainer.run.subcommand import split_arguments


def change_key(arguments: list[str]) -> int:
    """Gives what is encrypted another user's key."""
    usage = "banyan data rekey DIR data.encryption.key_file=OLD new.key_file=NEW [full=true]"
    defaults = {"new.key_file": "", "new.key_env": "", "new.key_command": "", "full": "false"}
    folders, given = split_arguments(arguments, defaults, usage)
    file, variable, command = (given[f"new.{name}"] or None for name in ("key_file", "key_env", "key_command"))
    new = KeySource.of(file, variable, command, "new")
    if len(folders) != 1 or new is None or given["full"] not in ("true", "false"):
        raise ConfigError(f"usage: {usage}.")
    folder = Path(folders[0]).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name an output of prepare, or a run directory.")
    with ExitStack() as stack:
        if (folder / "checkpoints").is_dir():
            stack.enter_context(RunLock()).take(folder, Run().lock_timeout_s)
        if (folder / PLAN).is_file():
            stack.enter_context(exclusive(folder))
        changed = rekey(folder, new)
        show(f"{folder}: the new key opens it, the old one doesn't any more ({changed} files rewritten)")
        if given["full"] == "true":
            show(f"{folder}: {encrypt_anew(folder)} files encrypted anew")
    return 0
