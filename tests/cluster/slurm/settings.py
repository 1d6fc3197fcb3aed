"""slurm.conf and gres.conf of a private cluster: nothing that needs cgroups, systemd or hardware, fast reactions."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

CONTROLLER = "controller"


@dataclass(frozen=True)
class Shape:
    """What the cluster looks like. `addresses`: name → IP of the controller and of each node; `ports` likewise."""

    name: str
    cpus: int
    gpus: int
    addresses: dict[str, str]
    ports: dict[str, int]
    host_names: dict[str, str]

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes, in order."""
        return [name for name in self.addresses if name != CONTROLLER]


def write_settings(state: Path, shape: Shape) -> Path:
    """Writes the two files and the fake GPUs into `state`; returns the path of slurm.conf."""
    for folder in ("munge", "ctld", "log", "run", "dev", *(f"spool/{node}" for node in shape.nodes)):
        (state / folder).mkdir(parents=True)
    (state / "plugstack.conf").touch()  # else SLURM reads the machine's own
    for index in range(shape.gpus):
        make_fake_gpu(state / "dev" / f"gpu{index}")
    (state / "gres.conf").write_text(gres_conf(state, shape))
    path = state / "slurm.conf"
    path.write_text(slurm_conf(state, shape))
    return path


def make_fake_gpu(path: Path) -> None:
    """A character device like /dev/null: SLURM hands out device files, and refuses plain ones."""
    os.mknod(path, 0o20666, os.makedev(1, 3))


def gres_conf(state: Path, shape: Shape) -> str:
    """The text of gres.conf."""
    lines = ["AutoDetect=off"]
    if shape.gpus:
        lines += [f"NodeName={node} Name=gpu File={state}/dev/gpu[0-{shape.gpus - 1}]" for node in shape.nodes]
    return "\n".join(lines) + "\n"


def slurm_conf(state: Path, shape: Shape) -> str:
    """The text of slurm.conf.

    Partitions: `debug` (default, never preempted), and `low`, whose jobs are requeued after 30 s for those of `high`.
    A requeued job waits for as long as credentials live, cred_expire: 120 s by default, here 10.
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    gres = f"Gres=gpu:{shape.gpus}" if shape.gpus else ""
    nodes = "\n".join(
        f"NodeName={node} NodeHostname={shape.host_names[node]} NodeAddr={shape.addresses[node]} "
        f"Port={shape.ports[node]} CPUs={shape.cpus} RealMemory=8000 {gres} State=UNKNOWN"
        for node in shape.nodes
    )
    return f"""\
ClusterName={shape.name}
SlurmctldHost={shape.host_names[CONTROLLER]}({shape.addresses[CONTROLLER]})
SlurmctldPort={shape.ports[CONTROLLER]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={state}/munge/socket,cred_expire=10
StateSaveLocation={state}/ctld
SlurmctldPidFile={state}/run/slurmctld.pid
SlurmctldLogFile={state}/log/slurmctld.log
SlurmdSpoolDir={state}/spool/%n
SlurmdPidFile={state}/run/slurmd.%n.pid
SlurmdLogFile={state}/log/slurmd.%n.log
PlugStackConfig={state}/plugstack.conf

ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={state}/log/jobcomp.txt

SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
UnkillableStepTimeout=20
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
InactiveLimit=0
MinJobAge=3600
BatchStartTimeout=10
ReturnToService=2
JobRequeue=1
EnforcePartLimits=ALL
TreeWidth=65533

{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=01:00:00 State=UP PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=01:00:00 State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=high Nodes=ALL MaxTime=01:00:00 State=UP PriorityTier=10 PreemptMode=OFF
"""
