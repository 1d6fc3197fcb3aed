"""`banyan doctor`: whether an allocation is fit to train on: what it gives beside what it should, and who is to blame.

banyan doctor                                                 this machine
banyan doctor launch=slurm launch.nodes=4 launch.gpus_per_node=8 doctor.folder=/shared/runs
banyan doctor launch=ray launch.workers=16 doctor.output=doctor.json

Exit code 0: well; 1: something was found; 2: a wrong command.
"""

from __future__ import annotations

from pathlib import Path

from trainer.config.doctor import Doctor
from trainer.config.values import check_values
from trainer.doctor.examine import Examined, bad_hosts, check_doctor, examination_json, examine, host_name
from trainer.errors import FoundError
from trainer.machine.durable import write_json
from trainer.ranks.mesh import join


def main(config: Doctor) -> int:
    """The verb: 0, or FoundError on rank 0 where something was found."""
    check_values(config)
    check_doctor(config)
    mesh = join()
    hosts = len(set(mesh.gather(host_name())))
    if mesh.is_main:
        ranks, many = f"{mesh.world_size:,} rank{'s' * (mesh.world_size > 1)}", f"{hosts:,} host{'s' * (hosts > 1)}"
        print(f"doctor: {ranks} on {many}, {mesh.device.type}", flush=True)
    outcomes = examine(config, mesh, print_outcome)
    if mesh.is_main and config.doctor.output is not None:
        write_json(Path(config.doctor.output).expanduser(), examination_json(outcomes, mesh, hosts))
    mesh.leave()
    findings = sum(len(each.findings) for each in outcomes)
    if findings:
        hosts_to_leave = bad_hosts(outcomes)
        exclude = f" Leave out: --exclude={','.join(hosts_to_leave)}" if hosts_to_leave else ""
        raise FoundError(f"doctor: {findings} thing{'s' * (findings > 1)} found.{exclude}")
    if mesh.is_main:
        print("well: nothing found", flush=True)
    return 0


def print_outcome(outcome: Examined) -> None:
    """A check's lines: what was measured, then what is wrong."""
    mark = "FOUND" if outcome.findings else "ok"
    print(f"{mark:5}  {outcome.name:12} {outcome.seconds:5.1f} s", flush=True)
    for line in outcome.measured:
        print(f"         {line}", flush=True)
    for finding in outcome.findings:
        print(f"       ! {finding.text}", flush=True)
