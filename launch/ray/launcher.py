"""`launch=ray`: the ranks of a job on a Ray cluster, all together or not at all.

    banyan pretrain launch=ray launch.workers=16
    banyan pretrain launch=ray launch.workers=[8,16]     elastic: shrinks and grows with the cluster

This is the driver. attempt.py has Ray Train place and watch a group, worker.py is what runs in its workers. A
group that fails is started again from the newest whole checkpoint of the run directory, as long as there is progress.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from launch.rank_group import FORWARDED, ExitStatus
from launch.ray import blamed, cluster, paths
from launch.ray.waiting_run import SUBMISSION_ID, WaitingRun, submission_id
from launch.verbs import VERBS
from trainer.config import Launch
from trainer.config.launchers import workers_of
from trainer.run.launched_folder import locate_launched

# Of the driver's environment, what ranks get: settings and keys of the libraries that they use.
PASSED_ON = (
    *("WANDB_", "NCCL_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "DS_", "HF_", "AWS_"),
    *("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
)


def run(verb: str, config: Any, arguments: Sequence[str], check: Callable[[int], None]) -> int:
    """Runs a verb on the cluster's ranks and returns its exit code: theirs, or the first failure's.

    `arguments` are what stood after the verb. `check` refuses, by raising, what a number of ranks can't honour: before
    anything is reserved.
    """
    sizes = workers_of(config.launch)
    for size in sorted(set(sizes)):
        check(size)
    folder = paths.folder_of_ranks(config)
    trains = VERBS[verb].trains
    run_dir = locate_launched(config) if trains else None
    with cluster.connected():
        demand = cluster.demand_of(config.launch, sizes, config.parallel.tensor if trains else 1)
        cluster.require_room(demand)

        def attempt(received: Sequence[int]) -> ExitStatus:
            from launch.ray.attempt import Attempt
            from launch.ray.stop import open_desk
            from launch.ray.worker import RayJob

            submitted = submission_id(os.environ)
            job = RayJob(
                arguments=[verb, *arguments],
                launch=config.launch,
                ranks=demand.ranks,
                has_cuda=demand.gpus > 0,
                folder=folder,
                variables={name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
                | ({SUBMISSION_ID: submitted} if submitted else {}),
                desk=open_desk(),
            )
            nodes = blamed.living_nodes()
            out = blamed.left_out(run_dir, demand, nodes)
            if out:
                print(f"banyan: without {', '.join(node.address for node in out)}, blamed before", flush=True)
            queue = WaitingRun(run_dir, submitted)
            status = Attempt(job, demand, config.launch, received, blamed.selector_of(out), queue).run()
            blamed.keep_blame(run_dir, status, nodes)
            return status

        with receiving() as received:
            if VERBS[verb].answers:
                status = attempt(received)
                status.show()
                return status.exit_code
            return persevere(lambda: attempt(received), config.launch, run_dir, received)


def persevere(attempt: Callable[[], ExitStatus], launch: Launch, run_dir: Path | None, received: Sequence[int]) -> int:
    """Attempts until one ends by itself, or launch.max_failures in a row brought no newer checkpoint; its exit code.

    What only the user can mend (exit code 2) is not tried again, nor what ended after a stop request.
    """
    failures = 0
    while True:
        reached = paths.newest_listed_step(run_dir)
        status = attempt()
        status.show()
        if status.failure is None or status.exit_code == 2 or received:
            return status.exit_code
        failures = 1 if paths.newest_listed_step(run_dir) > reached else failures + 1
        if failures > launch.max_failures:
            print(f"banyan: {failures} failures without a newer checkpoint (launch.max_failures={launch.max_failures})")
            return status.exit_code
        print(
            f"banyan: starting again from the newest whole checkpoint, step {paths.newest_listed_step(run_dir)} "
            f"(failure {failures} of {launch.max_failures} since there was a newer one)",
            flush=True,
        )


@contextlib.contextmanager
def receiving() -> Iterator[list[int]]:
    """The signals that this process gets, as they come; a second Ctrl-C is a KeyboardInterrupt.

    To be entered after ray.init, which has handlers of its own.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if received.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, receive) for number in FORWARDED}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
