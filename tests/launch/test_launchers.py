"""A key that the chosen launcher doesn't know is refused, whichever the launcher."""

import dataclasses

import pytest

from launch.launchers import LAUNCHERS, check_keys
from trainer.config import Launch
from trainer.config.launchers import LAUNCHERS as FACTS
from trainer.config.launchers import SHARED_KEYS
from trainer.errors import ConfigError


def test_every_key_belongs_to_one_launcher_or_to_all():
    owned = [*SHARED_KEYS, *(key for facts in FACTS.values() for key in facts.keys)]
    assert sorted(owned) == sorted(item.name for item in dataclasses.fields(Launch))


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        (Launch(nodes=4), "launch.nodes=4: launch=local has no such key; leave it out, or choose launch=slurm."),
        (Launch(name="slurm", processes=2), "choose launch=local."),
        (Launch(name="slurm", workers=2), "choose launch=ray."),
        (Launch(name="ray", time="1:00"), "choose launch=slurm."),
        (Launch(name="slrum"), "launch=slrum: no such launcher; choose one of local, slurm, ray."),
    ],
)
def test_a_key_of_another_launcher_is_refused(launch, message):
    with pytest.raises(ConfigError) as caught:
        check_keys(launch)
    assert str(caught.value).endswith(message)


@pytest.mark.parametrize("launch", [Launch(), Launch(processes=2), Launch(name="slurm", nodes=4), Launch(threads=1)])
def test_a_launcher_takes_its_own_keys(launch):
    check_keys(launch)


def test_every_launcher_has_facts_and_a_start():
    assert LAUNCHERS.keys() == FACTS.keys()


@pytest.mark.parametrize(
    ("launch", "ranks"),
    [
        (Launch(), (1, 1)),
        (Launch(processes=3), (3, 3)),
        (Launch(name="slurm", nodes=4, gpus_per_node=8), (32, 32)),
        (Launch(name="slurm", nodes=4, min_nodes=2, elastic=True, tasks_per_node=3), (6, 12)),
        (Launch(name="ray", workers=[2, 8]), (2, 8)),
    ],
)
def test_a_launcher_tells_the_ranks_that_it_is_asked_for(launch, ranks):
    assert FACTS[launch.name].ranks(launch) == ranks
