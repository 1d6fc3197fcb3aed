"""The energy that /metrics tells is what the machine's counters have gone on by since the server began."""

import json
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from trainer.machine.energy import open_rapl
from trainer.serve.energy_counter import EnergyCounter

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "banyan-serve.json").read_text())


def test_a_scrape_tells_what_was_used_since_the_server_began(tmp_path):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "max_energy_range_uj").write_text("100000000")
    (package / "energy_uj").write_text("99000000")
    registry = CollectorRegistry()
    registry.register(EnergyCounter("tree", [open_rapl(tmp_path)]))
    sample = 'banyan:energy_joules_total{device="cpu",model_name="tree"}'
    assert f"{sample} 0.0" in generate_latest(registry).decode()
    (package / "energy_uj").write_text("1500000")  # its range has ended meanwhile
    lines = generate_latest(registry).decode().splitlines()
    [value] = [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(sample)]
    assert abs(value - 2.5) < 1e-5
    [query] = [panel["targets"][0]["expr"] for panel in DASHBOARD["panels"] if panel["title"] == "Power"]
    assert query == 'sum by (device) (rate(banyan:energy_joules_total{model_name=~"$model"}[$__rate_interval]))'


def test_a_machine_without_counters_tells_nothing(tmp_path):
    registry = CollectorRegistry()
    registry.register(EnergyCounter("tree", [meter for meter in [open_rapl(tmp_path)] if meter]))
    assert "banyan:energy_joules_total{" not in generate_latest(registry).decode()
