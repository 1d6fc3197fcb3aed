"""Spikes on a page: what the run recorded, and for rows without a verdict the verdict of the run's own rule."""

import random

import pytest

from trainer.report.run_page import spikes
from trainer.report.run_page.journal import RunSeries
from trainer.report.run_page.spikes import SpikeFinder, severity
from trainer.track.spike_record import SpikeRecord
from trainer.track.spikes import SpikeRule, SpikeWatch

RULES = [(SpikeRule(), 1), (SpikeRule(sigma=4.0, window=16), 10)]


def make_rows(count, every):
    draw = random.Random(3)
    for number in range(1, count + 1):
        loss, norm = 3 + draw.gauss(0, 0.05), 1 + draw.gauss(0, 0.1)
        if number % 97 == 0:
            loss = 3.5 + number / 1000
        if number % 211 == 0:
            norm = 1e9  # after which sums that run along would have lost their digits
        yield {
            "step": number * every + (number % 50 == 0),  # some are the rows of stops
            "tokens": number,
            "time": float(number),
            "train/loss": float("nan") if number % 61 == 0 else loss,
            "train/grad_norm": norm,
        }


@pytest.mark.parametrize(("rule", "every"), RULES)
def test_rows_without_a_verdict_are_judged_as_the_run_would_have(tmp_path, monkeypatch, rule, every):
    monkeypatch.setattr(spikes, "CHUNK", 100)
    watch, finder = SpikeWatch(rule, every), SpikeFinder(rule, every)
    expected = {}
    for row in make_rows(1500, every):
        if limits := watch.judge(row):
            expected[row["step"]] = limits
        finder.add({**row, "train/loss": None} if row["train/loss"] != row["train/loss"] else row)
    found = finder.spikes(tmp_path)
    assert {spike.step: spike.limits for spike in found} == expected
    assert len(found) > 8
    assert all(spike.command == f"banyan data at {tmp_path} step={spike.step}" for spike in found)
    assert found[0].figures.keys() == {"train/loss", "train/grad_norm"}


def test_rows_with_a_verdict_are_not_judged_again(tmp_path):
    series = RunSeries()
    for row in make_rows(500, 1):
        series.add(row | {"health/spike": 0.0})
    assert series.spikes.spikes(tmp_path) == []


def test_of_very_many_the_greatest_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(spikes, "MOST_SPIKES", 3)
    monkeypatch.setattr(spikes, "CHUNK", 100)
    finder = SpikeFinder()
    for row in make_rows(1500, 1):
        finder.add({key: value for key, value in row.items() if key != "train/grad_norm"})
    steps = [spike.step for spike in finder.spikes(tmp_path)]
    assert steps == [1261, 1358, 1455]  # later ones are higher


def test_how_bad_a_spike_is_counts_from_its_limit():
    by_norm = SpikeRecord(1, 0, 0.0, "", {"train/loss": 3.0, "train/grad_norm": 40.0}, {"train/grad_norm": 2.0})
    by_loss = SpikeRecord(2, 0, 0.0, "", {"train/loss": 9.0}, {"train/loss": 3.0})
    old, skipped = SpikeRecord(3, 0, 0.0, "", {"train/loss": 9.0}), SpikeRecord(4, 0, 0.0, "", outcome="skipped")
    assert [spike.step for spike in sorted((by_norm, old, by_loss, skipped), key=severity)] == [4, 2, 3, 1]
