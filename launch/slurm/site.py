"""The SLURM of this cluster: its commands, each under a time limit, and whether it could ever run a job."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from trainer.config import Launch
from trainer.errors import BanyanError, ConfigError

ANSWER_S = 60.0  # longest wait for a command: they hang when the cluster is down
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<first>\d+)(?::(?P<second>\d+))?(?::(?P<third>\d+))?")
_ENDLESS = ("UNLIMITED", "INFINITE", "NONE")


def ask(command: Sequence[str], about: str, script: str | None = None) -> str:
    """What a SLURM command prints. ConfigError with its last line if it refuses; `about` is what it is asked for."""
    try:
        answer = subprocess.run(
            command,
            input=script,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANSWER_S,
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(
            f"launch=slurm: there is no {command[0]} here; run this on a login node of the cluster, or see the script "
            "with launch.dry_run=true."
        ) from None
    except subprocess.TimeoutExpired:
        raise BanyanError(f"{command[0]}: SLURM gave no answer within {ANSWER_S:.0f} s; is the cluster up?") from None
    if answer.returncode:
        lines = [re.sub(r"^(sbatch|scontrol): (error: )?", "", line) for line in answer.stderr.splitlines() if line]
        reason = "; ".join(dict.fromkeys(lines)).rstrip(".") or f"{command[0]} ended with {answer.returncode}"
        raise ConfigError(f"{about}: {reason}. See `sinfo -N -l` for what the cluster has.")
    return answer.stdout


def check_request(launch: Launch, script: str, options: str) -> None:
    """Refuses what this cluster could never run; `options` are named where it does."""
    check_time(launch)
    ask(["sbatch", "--test-only"], f"SLURM refuses {options}", script)


def check_time(launch: Launch) -> None:
    """Refuses a time above the limit of every chosen partition: SLURM itself would let such a job wait for ever."""
    if launch.time is None:
        return
    asked = seconds_of(launch.time)
    if asked is None or asked <= launch.grace_s:
        mend = f"more than launch.grace_s={launch.grace_s} seconds, as D-HH:MM:SS or minutes"
        raise ConfigError(f"launch.time={launch.time}: must be {mend}.")
    chosen = launch.partition.split(",") if launch.partition else []
    limits = {}
    for line in ask(["scontrol", "--oneliner", "show", "partition"], "launch=slurm").splitlines():
        about = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if about["PartitionName"] in chosen or (not chosen and about.get("Default") == "YES"):
            limits[about["PartitionName"]] = about["MaxTime"]
    if limits and all(limit not in _ENDLESS and asked > (seconds_of(limit) or 0) for limit in limits.values()):
        listed = ", ".join(f"{name}: {limit}" for name, limit in limits.items())
        raise ConfigError(
            f"launch.time={launch.time}: above the limit of the partition ({listed}); lower it (a job that reaches its "
            "limit is queued again and goes on), or choose another launch.partition."
        )


def seconds_of(time: str) -> int | None:
    """Seconds of a time as sbatch reads it (M, M:S, H:M:S, D-H, D-H:M, D-H:M:S); None if it can't be read."""
    match = _TIME.fullmatch(time)
    if match is None:
        return None
    parts = [int(match[name]) for name in ("first", "second", "third") if match[name] is not None]
    if match["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(match["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    hours, minutes, seconds = {1: [0, *parts, 0], 2: [0, *parts], 3: parts}[len(parts)]
    return (hours * 60 + minutes) * 60 + seconds
