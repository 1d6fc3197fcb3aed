"""A key that the chosen launcher doesn't know is refused, whichever the launcher."""

import dataclasses

import pytest

from launch.launcher_keys import KEYS, SHARED, check_keys
from trainer.config import Launch
from trainer.errors import ConfigError


def test_every_key_belongs_to_one_launcher_or_to_all():
    owned = [*SHARED, *(key for keys in KEYS.values() for key in keys)]
    assert sorted(owned) == sorted(item.name for item in dataclasses.fields(Launch))


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        (Launch(nodes=4), "launch.nodes=4: launch=local has no such key; leave it out, or choose launch=slurm."),
        (Launch(name="slurm", processes=2), "choose launch=local."),
        (Launch(name="slurm", workers=2), "choose launch=ray."),
        (Launch(name="ray", time="1:00"), "choose launch=slurm."),
        (Launch(name="slrum"), "launch=slrum: no such launcher; choose one of local, slurm, ray."),
    ],
)
def test_a_key_of_another_launcher_is_refused(launch, told):
    with pytest.raises(ConfigError) as caught:
        check_keys(launch)
    assert str(caught.value).endswith(told)


@pytest.mark.parametrize("launch", [Launch(), Launch(processes=2), Launch(name="slurm", nodes=4), Launch(threads=1)])
def test_a_launcher_takes_its_own_keys(launch):
    check_keys(launch)
