"""`banyan prepare launch=ray`: the work items as plain Ray tasks. They are idempotent, so a lost one is run again."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from launch.ray import cluster, paths
from trainer.config import Prepare
from trainer.data.text.workers import AHEAD, Item, Map, Result, Work
from trainer.errors import BanyanError, ConfigError
from trainer.machine.sealing.keyring import KEYRING

RETRIES = 10  # of an item whose worker or node was lost


def run(config: Prepare, main: Callable[[Prepare, Map], int]) -> int:
    """Runs the `main` of prepare, or of data index, with its items on the cluster.

    They come back in order, so what is written is what local writes.
    """
    if config.data.workers is not None:
        raise ConfigError(
            f"data.workers={config.data.workers} is for launch=local: use launch.workers, or leave it out."
        )
    workers, folder = _workers(config), paths.folder_of_ranks(config)
    with cluster.connected():
        demand = cluster.Demand(1, 1, 1, config.launch.cpus_per_worker, 0)
        cluster.require_room(demand)
        return main(config, spread(workers or cluster.bundles_that_fit(demand), demand.cpus, folder))


def _workers(config: Prepare) -> int | None:
    workers = config.launch.workers
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"launch.workers={workers}: prepare takes the most items at once, as launch.workers=8.")
    return workers


def spread(workers: int, cpus: float, folder: str | None) -> Map:
    """A map of up to `workers` tasks at once, each with `cpus` cores and standing in `folder`."""
    import ray

    source = KEYRING.source

    def call(function: Any, item: Any) -> Any:
        from trainer.machine.sealing.keyring import KEYRING  # this process's: Ray would send the driver's along

        KEYRING.use(source)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the tasks are the parallelism
        if folder is not None:
            os.chdir(folder)
        return function(item)

    task: Any = ray.remote(num_cpus=cpus, max_retries=RETRIES)(call)

    def map_items(work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        shared = ray.put(work)
        running: deque[Any] = deque()
        try:
            for item in items:
                running.append(task.remote(shared, item))
                if len(running) == AHEAD * workers:
                    yield ray.get(running.popleft())
            while running:
                yield ray.get(running.popleft())
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            lost = " ".join(str(error).split())
            raise BanyanError(
                f"Ray lost a work item {RETRIES} times ({lost}): the same command again continues."
            ) from error
        finally:
            for reference in running:
                ray.cancel(reference)

    return map_items
