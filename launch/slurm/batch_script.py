"""slurm/pretrain.sbatch with its #SBATCH lines set from the keys of `launch`, and the overrides written into it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.config import Launch
from trainer.config.names import as_name
from trainer.errors import ConfigError

SCRIPTS = Path(__file__).resolve().parents[2] / "slurm"
_OVERRIDES = "# (overrides)\n"
_OPTION = re.compile(r"[a-z][a-z0-9-]*")
_PLAIN = re.compile(r"[\w.,:;=+@%/-]+")


def ranks_per_node(launch: Launch) -> int:
    """One for each GPU; without GPUs launch.tasks_per_node, or one. ConfigError if the two differ."""
    gpus, tasks = launch.gpus_per_node, launch.tasks_per_node
    if gpus and tasks not in (None, gpus):
        raise ConfigError(
            f"launch.tasks_per_node={tasks}: with launch.gpus_per_node={gpus} there is one rank for each GPU; "
            "leave launch.tasks_per_node out."
        )
    return gpus or tasks or 1


def options_of(launch: Launch, run_dir: Path) -> dict[str, str | None]:
    """Options of sbatch by name; None takes the script's own line out."""
    options: dict[str, str | None] = {
        "job-name": f"banyan-{as_name(run_dir.name)}",
        "nodes": str(launch.nodes + launch.spares),
        "ntasks-per-node": str(ranks_per_node(launch)),
        "gpus-per-node": str(launch.gpus_per_node) if launch.gpus_per_node else None,
        "cpus-per-task": str(launch.cpus_per_task) if launch.cpus_per_task else None,
        "time": launch.time,
        "signal": f"B:USR1@{launch.grace_s}",
        "output": str(run_dir / "logs" / "slurm-").replace("%", "%%") + "%j.log",
    }
    if launch.elastic:  # given a number of tasks, SLURM takes no more nodes than the fewest nodes have tasks
        options |= {"nodes": f"{launch.min_nodes}-{launch.nodes}", "ntasks-per-node": None}
        options["mincpus"] = str(ranks_per_node(launch) * (launch.cpus_per_task or 1))
    if launch.partition:
        options["partition"] = launch.partition
    if launch.account:
        options["account"] = launch.account
    return options | {name.replace("_", "-"): _as_text(value) for name, value in launch.sbatch.items()}


def verb_setting(verb: str) -> dict[str, str]:
    """The shell variable that names the verb, where it isn't pretrain."""
    return {} if verb == "pretrain" else {"BANYAN_VERB": verb}


def render(options: Mapping[str, str | None], settings: Mapping[str, str], arguments: Sequence[str]) -> str:
    """The script; `settings` are shell variables, `arguments` what the user typed after `banyan pretrain`."""
    text = (SCRIPTS / "pretrain.sbatch").read_text("utf-8")
    for name, value in options.items():
        text = _with_option(text, name, value)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in settings.items()]
    lines.append(f'set -- {shlex.join(arguments)} "$@"\n')
    assert _OVERRIDES in text
    return text.replace(_OVERRIDES, "".join(lines))


def _with_option(text: str, name: str, value: str | None) -> str:
    if not _OPTION.fullmatch(name):
        raise ConfigError(f"launch.sbatch.{name!r}: no option of sbatch; write it as launch.sbatch.NAME=VALUE.")
    line = re.compile(rf"^#SBATCH --{re.escape(name)}(=.*)?\n", re.MULTILINE)
    new = "" if value is None else f"#SBATCH --{name}={_quoted(name, value)}\n" if value else f"#SBATCH --{name}\n"
    if line.search(text):
        return line.sub(lambda _: new, text)
    last = list(re.finditer(r"^#SBATCH .*\n", text, re.MULTILINE))[-1]
    return text[: last.end()] + new + text[last.end() :]


def _quoted(name: str, value: str) -> str:
    """As sbatch reads #SBATCH lines: in quotes where it isn't plain. ConfigError for what no quotes keep together."""
    if not value.isprintable() or re.search(r"[\"\\]", value):
        raise ConfigError(
            f"--{name}={value!r}: a line of a batch script can't hold quotes, backslashes or control characters; use "
            "another run.dir, run.name or value of launch."
        )
    return value if _PLAIN.fullmatch(value) else f'"{value}"'


def _as_text(value: object) -> str | None:
    """launch.sbatch.NAME as sbatch has it: true is an option without a value; false and null take its line out."""
    if value is True:
        return ""
    return None if value in (None, False) else str(value)
