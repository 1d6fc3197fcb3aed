"""`launch=slurm`: submits slurm/pretrain.sbatch from a login node, once SLURM and the configuration agree to it.

    banyan pretrain launch=slurm launch.nodes=4 launch.gpus_per_node=8 launch.time=24:00:00 …

Needs neither torch nor a GPU. Everything that can be refused is refused before a job is submitted.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from launch.blame import DOCTOR, NODES
from launch.slurm import batch_script, site, waiting
from launch.slurm.nodes import to_exclude
from launch.verbs import Verb
from trainer.config import Launch
from trainer.errors import ConfigError
from trainer.machine.durable import write_text
from trainer.run import directory as run_directory
from trainer.run.launched_folder import locate_launched
from trainer.run.queue import record_submission


def run(verb: Verb, config: Any, arguments: Sequence[str], check: Callable[[int], None]) -> int:
    """Submits `verb` as one job, or as a chain of them, and says how to follow it; the exit code.

    A verb that answers is waited for, and in an allocation runs there: the exit code is its own.
    `arguments` are what the user typed after the verb; `check` refuses what a number of ranks can't honour.
    """
    launch = config.launch
    check_node_counts(launch, check)
    run_dir = folder_of_job(verb, config)
    options = batch_script.options_of(launch, run_dir) | _without_blamed(launch, run_dir)
    forwarded = [argument for argument in arguments if not argument.startswith("launch.dry_run=")]
    script = batch_script.render(options, _settings(launch) | batch_script.verb_setting(verb.name), forwarded)
    if launch.dry_run:
        print(script, end="")
        return 0
    file = run_dir / ("pretrain.sbatch" if verb.trains else f"{verb.name}.sbatch")
    if verb.answers and waiting.is_allocation(os.environ):
        run_directory.create(run_dir)
        write_text(file, script)
        return waiting.run_in_allocation(file, batch_script.ranks_per_node(launch))
    request = " ".join(f"--{name}={options[name]}" for name in _REQUESTED if options.get(name))
    site.check_request(launch, script, request)
    run_directory.create(run_dir)
    write_text(file, script)
    output = str(options["output"])
    jobs = submit(file, 1 if verb.answers else launch.chain)
    if verb.trains:
        record_submission(run_dir, jobs)
    _announce(jobs, launch, run_dir, output, trains=verb.trains)
    return waiting.follow(jobs[0], _log_of(output, jobs[0])) if verb.answers else 0


def folder_of_job(verb: Verb, config: Any) -> Path:
    """Where script and log go: the run directory, or a folder there that is called after a verb that doesn't train.

    InputError where such a verb is given a run that isn't there.
    """
    if verb.trains:
        return locate_launched(config)
    if config.run.dir is not None:
        run_directory.require_run_dir(config.run.dir)
    return Path(config.run.dir or "runs").absolute() / verb.name


def check_node_counts(launch: Launch, check: Callable[[int], None]) -> None:
    """Refuses numbers of nodes at which the configuration can't train; of an elastic job, each it might get."""
    per_node = batch_script.ranks_per_node(launch)
    if launch.elastic and launch.spares:
        raise ConfigError(
            f"launch.spares={launch.spares}: an elastic job goes on with the nodes that it gets; take one."
        )
    if not launch.elastic:
        if launch.min_nodes != 1:
            raise ConfigError(f"launch.min_nodes={launch.min_nodes}: needs launch.elastic=true.")
        check(launch.nodes * per_node)
        return
    if launch.min_nodes > launch.nodes:
        raise ConfigError(f"launch.min_nodes={launch.min_nodes}: must be at most launch.nodes={launch.nodes}.")
    refused = {}
    for nodes in range(launch.min_nodes, launch.nodes + 1):
        try:
            check(nodes * per_node)
        except ConfigError as error:
            refused[nodes] = error
    if len(refused) > launch.nodes - launch.min_nodes:
        raise refused[launch.nodes]
    if refused:
        sizes, (first, why) = ", ".join(map(str, refused)), next(iter(refused.items()))
        raise ConfigError(
            f"launch.elastic=true: {launch.min_nodes} to {launch.nodes} nodes, but {sizes} of them can't train; with "
            f"{first}: {why}"
        )


def _without_blamed(launch: Launch, run_dir: Path) -> dict[str, str | None]:
    """--exclude with the nodes that earlier jobs of this run had trouble with, besides those that are asked for."""
    blamed = to_exclude(run_dir)
    if not blamed:
        return {}
    if not launch.dry_run:
        print(f"left out       {', '.join(blamed)}, blamed in {run_dir / NODES} or {DOCTOR}")
    given = [str(launch.sbatch["exclude"])] if launch.sbatch.get("exclude") else []
    return {"exclude": ",".join([*given, *blamed])}


def submit(script: Path, count: int) -> list[str]:
    """Submits the script as `count` jobs, each to begin when the one before has ended; their numbers."""
    jobs: list[str] = []
    for _ in range(count):
        after = [f"--dependency=afterany:{jobs[-1]}"] if jobs else []
        answer = site.ask(["sbatch", "--parsable", *after, str(script)], "SLURM refuses the job")
        jobs.append(answer.strip().split(";")[0])
    return jobs


_REQUESTED = (
    "nodes",
    "ntasks-per-node",
    "mincpus",
    "gpus-per-node",
    "cpus-per-task",
    "mem",
    "time",
    "partition",
    "account",
)


def _settings(launch: Launch) -> dict[str, str]:
    """Shell variables for what sbatch has no option: the environment that this command runs in, chain and tasks."""
    activate = Path(sys.prefix) / "bin" / "activate"
    setup = launch.setup or os.environ.get("BANYAN_SETUP") or (str(activate) if activate.is_file() else None)
    if setup is not None and not Path(setup).expanduser().is_file():
        raise ConfigError(f"launch.setup={setup}: there is no such file.")
    settings = {"BANYAN_SETUP": str(Path(setup).expanduser().absolute())} if setup else {}
    if launch.chain > 1:
        settings["BANYAN_CHAIN"] = f"chain-{uuid.uuid4().hex[:8]}"
    if launch.elastic:
        settings["BANYAN_TASKS_PER_NODE"] = str(batch_script.ranks_per_node(launch))
    return settings


def _log_of(output: str, job: str) -> Path:
    """Where a job's log is; `output` is that option of sbatch."""
    return Path(output.replace("%j", job).replace("%%", "%"))


def _announce(jobs: Sequence[str], launch: Launch, run_dir: Path, output: str, *, trains: bool) -> None:
    nodes = f"{launch.min_nodes} to {launch.nodes}" if launch.elastic else str(launch.nodes)
    spare = f", and {launch.spares} spare" if launch.spares else ""
    each = f"{batch_script.ranks_per_node(launch)} rank{'s' * (batch_script.ranks_per_node(launch) > 1)}"
    log = _log_of(output, jobs[0])
    many = f"jobs {' '.join(jobs)} submitted, one after the other" if len(jobs) > 1 else f"job {jobs[0]} submitted"
    print(f"{many}: {nodes} node{'s' * (nodes != '1')} with {each} each{spare}")
    if trains:
        print(f"run directory  {run_dir}")
    print(f"log            {log}")
    print(f"follow         squeue -j {','.join(jobs)}; tail -F {log}")
    if trains:
        print(f"stop           touch {run_dir / 'stop'}    (checkpoints; scancel {' '.join(jobs)} ends at once)")
