"""How ranks are started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from trainer.config.knobs import knob


@dataclass
class Launch:
    """How ranks are started. A key that the chosen launcher doesn't know is refused."""

    name: str = knob("local", "Launcher.", choices=("local", "slurm", "ray"))
    threads: Optional[int] = knob(None, "CPU threads per rank; by default cores / ranks of the node.", "threads", low=1)
    device: Optional[str] = knob(
        None, "Kind of GPU that ranks get, as plan.device names them, where it can't be seen from here."
    )
    check_memory: bool = knob(True, "Refuse a run that needs more memory than its devices have.")
    # local
    processes: Optional[int] = knob(None, "Ranks on this machine; by default one per GPU, or one.", common=True, low=1)
    # slurm
    nodes: int = knob(1, "Nodes of the job.", common=True, low=1)
    gpus_per_node: int = knob(0, "GPUs of each node, one for each rank.", "GPUs", common=True)
    tasks_per_node: Optional[int] = knob(None, "Ranks on each node where there are no GPUs; by default one.", low=1)
    cpus_per_task: Optional[int] = knob(None, "Cores of each rank; by default what the site gives.", low=1)
    time: Optional[str] = knob(None, "Time limit, as sbatch has it (D-HH:MM:SS).", common=True)
    partition: Optional[str] = knob(None, "Partition.")
    account: Optional[str] = knob(None, "Account.")
    sbatch: dict[str, Any] = knob({}, "Any other option of sbatch: launch.sbatch.qos=high is --qos=high.")
    setup: Optional[str] = knob(None, "Shell file that the job sources first: modules, a virtual environment.")
    grace_s: int = knob(120, "How long before the time limit the job is asked to checkpoint.", "seconds", low=1)
    max_restarts: int = knob(3, "Times in a row that a job is started again, though no newer checkpoint was left.")
    chain: int = knob(1, "Jobs submitted, each to begin when the one before has ended.", low=1)
    elastic: bool = knob(False, "Take from min_nodes to nodes nodes, whatever is free, also after one was lost.")
    min_nodes: int = knob(1, "Fewest nodes of an elastic job.", low=1)
    spares: int = knob(
        0,
        "Nodes of the job beside launch.nodes, that a start without a blamed node takes ranks to.",
        later=True,
    )
    dry_run: bool = knob(False, "Print the script and submit nothing.")
    # ray
    workers: Any = knob(
        None,
        "Ranks on the Ray cluster, or a range [least, most] for an elastic run; prepare: most items at once.",
        common=True,
    )
    cpus_per_worker: float = knob(1.0, "Cores reserved for each rank.", "cores", high=1024.0)
    gpus_per_worker: Optional[int] = knob(
        None, "GPUs of each rank: 0 or 1; by default 1 where the cluster has any.", "GPUs", high=1
    )
    max_failures: int = knob(3, "Times in a row that ranks are started again without a newer checkpoint.")
    resize_check_s: float = knob(60.0, "Time between looks of an elastic run for nodes that have come.", "seconds")
    start_timeout_s: float = knob(
        60.0, "Longest wait for resources that the cluster has but that are in use, before it says so.", "seconds"
    )
