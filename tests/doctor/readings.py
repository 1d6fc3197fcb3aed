"""Readings as ranks on hosts n1, n2, … would give them, a rank on each."""

from types import SimpleNamespace

from trainer.config.doctor import Doctor
from trainer.doctor.check import RankReading


def readings_of(values):
    return [RankReading(rank, f"n{rank + 1}", each) for rank, each in enumerate(values)]


def station():
    return SimpleNamespace(
        config=Doctor(),
        mesh=SimpleNamespace(device=SimpleNamespace(type="cpu")),
        folder=SimpleNamespace(parent="/shared"),
    )
