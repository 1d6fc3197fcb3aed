"""Counters of energy, as files of the kernel's layout and as NVML gives them."""

import sys
from types import SimpleNamespace

import pytest

from trainer.machine.energy import open_nvml, open_rapl


def package(powercap, number, microjoules, most=999_999):
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")


def test_packages_are_summed_and_begin_anew(tmp_path):
    package(tmp_path, 0, 900_000)
    package(tmp_path, 1, 100)
    package(tmp_path, "0:0", 5)  # a part of package 0, which is counted there
    meter = open_rapl(tmp_path)
    assert meter.joules() == 0
    package(tmp_path, 0, 100_000)  # over its range's end
    package(tmp_path, 1, 300_100)
    assert meter.joules() == pytest.approx(0.2 + 0.3)
    package(tmp_path, 0, 150_000)
    assert meter.joules() == pytest.approx(0.55)


def test_counters_that_are_not_there_or_not_for_us(tmp_path):
    assert open_rapl(tmp_path / "nothing") is None
    assert open_rapl(tmp_path) is None
    package(tmp_path, 0, "secret")
    assert open_rapl(tmp_path) is None


def test_nvml_by_uuid(monkeypatch):
    theirs = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-a": 1, "GPU-mig": 2}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption={1: 2_500}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", theirs)
    assert open_nvml("GPU-a").joules() == 2.5
    assert open_nvml("GPU-b") is None
    assert open_nvml("GPU-mig") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert open_nvml("GPU-a") is None
