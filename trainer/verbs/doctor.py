"""`banyan doctor`: whether an allocation is fit to train on: what it gives beside what it should, and who is to blame.

banyan doctor                                                 this machine
banyan doctor launch=slurm launch.nodes=4 launch.gpus_per_node=8 doctor.folder=/shared/runs
banyan doctor launch=ray launch.workers=16 doctor.output=doctor.json

Exit code 0: well; 1: something was found; 2: a wrong command.
"""

from __future__ import annotations

import os
import time

from trainer.config.doctor import Doctor
from trainer.config.values import check_values
from trainer.doctor.examine import check_doctor, examine
from trainer.doctor.outcome import Examination, Examined, check_output
from trainer.doctor.stuck import HEARD_S, find_absent
from trainer.machine.host import node_name
from trainer.ranks.mesh import AbsentError, join


def main(config: Doctor) -> int:
    """The verb: 0, or FoundError on rank 0 where something was found."""
    check_values(config)
    check_doctor(config)
    is_main, began = os.environ["RANK"] == "0", time.monotonic()
    if is_main:
        check_output(config)
    try:
        mesh = join(roll_call_s=config.doctor.timeout_s)
    except AbsentError as error:
        if is_main:
            examination = Examination(len(error.came), len(set(error.came.values())), "cpu", [])
            examination.add(Examined("roll", time.monotonic() - began, [], [find_absent(error, os.environ)]))
            examination.conclude(config.doctor.output)
        time.sleep(HEARD_S)  # rank 0 says it better
        raise
    hosts = len(set(mesh.gather(node_name())))
    examination = Examination(mesh.world_size, hosts, mesh.device.type, [])
    if mesh.is_main:
        ranks, many = f"{mesh.world_size:,} rank{'s' * (mesh.world_size > 1)}", f"{hosts:,} host{'s' * (hosts > 1)}"
        print(f"doctor: {ranks} on {many}, {mesh.device.type}", flush=True)
    examine(config, mesh, examination)
    mesh.leave()
    if mesh.is_main:
        examination.conclude(config.doctor.output)
    return 0
