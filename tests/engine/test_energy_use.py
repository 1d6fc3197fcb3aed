"""A run's energy: over ranks and starts, measured or called an estimate; nothing where nothing is known."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config.plain_values import as_stored_values
from trainer.export.card_facts import gather_facts
from trainer.machine import energy
from trainer.run.directory import read_config
from trainer.run.gather_health import gather_energy
from trainer.track.energy import EnergyAccount, energy_in_words
from trainer.track.sinks.journal import read_metrics


def rows(run_dir, metric):
    return [row[metric] for row in read_metrics(run_dir) if metric in row]


def test_an_estimate_goes_on_over_starts_and_is_called_one(corpus, tmp_path):
    given = {"track__energy__device_watts": 100.0, "track__energy__grid_gco2_per_kwh": 500.0, "track__energy__pue": 1.2}
    config = small_config(corpus, tmp_path / "run", train__steps=6, train__stop_at=3, track__every=1, **given)
    assert run_ranks(pretrain, config, 2) == [85, 85]
    first = json.loads((tmp_path / "run" / "energy.json").read_text())
    config.train.stop_at = None
    assert run_ranks(pretrain, config, 2) == [0, 0]
    last = json.loads((tmp_path / "run" / "energy.json").read_text())
    assert last["joules"] > first["joules"] > 0
    assert last["joules"] == pytest.approx(2 * 100 * last["seconds"], rel=0.05)  # ranks' clocks differ a little
    kwh = rows(tmp_path / "run", "energy/estimated_kwh")
    assert kwh == sorted(kwh)
    assert len(kwh) == 6
    assert kwh[-1] == pytest.approx(last["joules"] / 3.6e6)
    assert rows(tmp_path / "run", "energy/estimated_co2e_kg")[-1] == pytest.approx(kwh[-1] * 1.2 * 0.5)
    assert rows(tmp_path / "run", "energy/estimated_watts")[-1] == pytest.approx(200, rel=0.3)
    summary = (tmp_path / "run" / "summary.txt").read_text()
    assert "estimated from 100 W per device" in summary
    assert "at 500 g per kWh and a PUE of 1.2" in summary
    by_token = f"{last['joules'] / last['tokens']:.4g} J per token"
    assert last["tokens"] == 6 * 8 * 32
    assert by_token in summary
    facts = gather_facts(tmp_path / "run", read_config(tmp_path / "run"), {"step": 6, "tokens": 1}, as_trained=False)
    assert facts.energy in summary
    _, table = gather_energy(tmp_path / "run", as_stored_values(read_config(tmp_path / "run")))
    assert ("By token trained on", by_token.removesuffix(" per token")) in table


def test_nothing_is_said_where_nothing_can_be_known(corpus, tmp_path):
    config = small_config(corpus, tmp_path / "run", train__steps=1, track__energy__measure=False)
    assert run_ranks(pretrain, config, 1) == [0]
    assert not (tmp_path / "run" / "energy.json").exists()
    assert not any(name.startswith("energy/") for row in read_metrics(tmp_path / "run") for name in row)


def counted(powercap, config):
    """A rank on a host whose processors use a joule each time they are looked at."""
    read = Path.read_text

    def read_text(path, *args, **kwargs):
        if path.name == "energy_uj":
            path.write_text(str(int(read(path)) + 1_000_000))
        return read(path, *args, **kwargs)

    Path.read_text = read_text
    energy.open_rapl.__defaults__ = (powercap,)
    return pretrain(config)


def test_processors_are_counted_once_for_each_host(corpus, tmp_path):
    folder = tmp_path / "powercap" / "intel-rapl:0"
    folder.mkdir(parents=True)
    (folder / "energy_uj").write_text("0")
    (folder / "max_energy_range_uj").write_text("262143328850")
    config = small_config(corpus, tmp_path / "run", train__steps=4, track__every=1)
    assert run_ranks(partial(counted, tmp_path / "powercap"), config, 2) == [0, 0]
    account = json.loads((tmp_path / "run" / "energy.json").read_text())
    assert (account["joules"], account["hosts"], account["gpus"], account["estimated"]) == (4.0, 1, 0, False)
    assert len(rows(tmp_path / "run", "energy/kwh")) == 4


def test_in_words():
    account = EnergyAccount(joules=7.2e6, gpus=8, hosts=1, ranks=8)
    from trainer.config.energy import Energy

    known = "8 GPUs (NVML, within about 5 %) and the processors of 1 host (RAPL, whose makers state no error)"
    assert energy_in_words(account, Energy()) == f"2 kWh, measured on {known}"
    account.tokens = 10**6
    assert energy_in_words(account, Energy()) == f"2 kWh, measured on {known}; 7.2 J per token"
