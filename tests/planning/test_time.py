"""The roofline, on numbers that can be checked by hand."""

import dataclasses
from pathlib import Path

import pytest

from tests.run_ranks import small_config
from trainer.config import PlanSettings
from trainer.planning.calibration import Calibration, calibration_of
from trainer.planning.cluster import Cluster
from trainer.planning.communication import Transfer
from trainer.planning.devices import DEVICES, Device
from trainer.planning.layout import layout_of
from trainer.planning.time import time_of
from trainer.planning.time import transfer_seconds as seconds_of
from trainer.planning.work import work_of

SETTINGS = PlanSettings(latency_s=0.0)
IDEAL = Calibration(
    matmul=1.0, attention=1.0, spill=0.0, contention=0.0, tensor_link=1.0, data_link=1.0, narrow_heads=0.0
)
DEVICE = Device("gpu", 1e12, 1e12, 10**10, 1e30, 100e9, 10e9, 0.0)


def step_time(of, cluster, shares=IDEAL):
    return time_of(work_of(of), of, cluster, shares, SETTINGS)


def transfer_seconds(transfer, of, cluster, shares=IDEAL):
    return seconds_of(transfer, of, cluster, shares, SETTINGS)


def layout(ranks, **changes):
    sizes = {"model__vocab_size": 512, "train__batch_size": 64, "train__micro_batch_size": 2, **changes}
    return layout_of(small_config(Path("data"), Path("run"), **sizes), ranks, cuda=True)


def test_without_traffic_the_step_takes_what_its_products_take():
    """6 FLOPs for each token and weight of a product; attention's seven products of half a square."""
    time = step_time(layout(1), Cluster(1, 8, DEVICE))
    block = 2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96
    linear = 6 * 64 * 32 * (2 * block + 512 * 48)
    attention = 2 * 64 * 7 * 2 * 32 * 32 / 2 * 48
    assert time.matmul == pytest.approx((linear + attention) / 1e12)
    assert time.total == pytest.approx(time.matmul)
    assert (time.tensor, time.data, time.hidden) == (0, 0, 0)


@pytest.mark.parametrize(
    ("op", "handed_in", "moved"),
    [
        ("all_reduce", 800, 2 * 700),
        ("reduce_scatter_tensor", 800, 700),
        ("all_gather_into_tensor", 100, 700),
        ("all_to_all_single", 800, 700),
    ],
)
def test_collectives_move_what_rings_do(op, handed_in, moved):
    cluster = Cluster(8, 8, DEVICE)
    seconds = transfer_seconds(Transfer(op, "data", handed_in), layout(8), cluster)
    assert seconds == pytest.approx(moved / 100e9)


def test_a_group_across_nodes_goes_at_the_speed_of_its_networks_together():
    transfer = Transfer("all_reduce", "data", 1600)
    whole_nodes = transfer_seconds(transfer, layout(16), Cluster(16, 8, DEVICE))
    assert whole_nodes == pytest.approx(2 * 1500 / 80e9)
    one_of_each = layout(16, model__num_key_value_heads=4, parallel__tensor=4)
    assert transfer_seconds(transfer, one_of_each, Cluster(16, 4, DEVICE)) == pytest.approx(2 * 1200 / 10e9)


SMALL_BUCKET = {"zero_optimization": {"reduce_bucket_size": 1000}}


def test_what_backward_hides_costs_nothing_and_the_rest_does():
    slow = dataclasses.replace(DEVICE, node_link=1e3)
    fast = dataclasses.replace(DEVICE, node_link=1e15)
    of = layout(2, parallel__zero_stage=2)
    of.config.deepspeed = SMALL_BUCKET
    hidden = step_time(of, Cluster(2, 8, fast))
    exposed = step_time(of, Cluster(2, 8, slow))
    assert hidden.total == pytest.approx(hidden.matmul, rel=1e-3)
    assert exposed.total > 100 * hidden.total


def test_a_model_that_fits_into_one_bucket_is_reduced_when_backward_has_ended():
    cluster = Cluster(2, 8, DEVICE)
    one, several = layout(2, parallel__zero_stage=2), layout(2, parallel__zero_stage=2)
    several.config.deepspeed = SMALL_BUCKET
    assert step_time(one, cluster).hidden == 0
    assert step_time(several, cluster).hidden > 0.5 * step_time(one, cluster).data


def test_hidden_exchange_costs_its_contention():
    of = layout(2, parallel__zero_stage=3)
    contended = step_time(of, Cluster(2, 8, DEVICE), dataclasses.replace(IDEAL, contention=0.25))
    assert contended.data == pytest.approx(0.25 * contended.hidden)
    assert contended.hidden > 0


def test_stage_1_in_bf16_passes_over_every_parameter_beside_the_step():
    """Against stage 2, which has no such passes: 36 bytes for each parameter."""
    of, plain = (layout(2, parallel__zero_stage=stage, train__precision="bf16") for stage in (1, 2))
    assert work_of(of).step_bytes - work_of(plain).step_bytes == 36 * of.elements


def test_eager_blocks_move_more_than_compiled_ones():
    slow = dataclasses.replace(DEVICE, bandwidth=1e9)
    eager, compiled = (
        step_time(layout(1, train__compile=compile), Cluster(1, 8, slow), calibration_of("h100", SETTINGS))
        for compile in (False, True)
    )
    assert 1.3 < eager.memory / compiled.memory < 3


def test_narrow_heads_are_slower():
    wide, narrow = (
        layout(1, model__hidden_size=256, model__num_attention_heads=heads, model__num_key_value_heads=heads)
        for heads in (2, 8)
    )
    shares = dataclasses.replace(IDEAL, narrow_heads=0.5)
    times = [step_time(of, Cluster(1, 8, DEVICE), shares).matmul for of in (wide, narrow)]
    assert times[1] > times[0]


def test_what_plan_is_told_comes_before_what_was_fitted():
    told = calibration_of("h100", PlanSettings(matmul_share=0.5, link_share=0.9))
    assert (told.matmul, told.tensor_link, told.data_link) == (0.5, 0.9, 0.9)
    assert told.attention == calibration_of("h100", PlanSettings()).attention


def test_every_device_of_the_table_has_a_peak():
    assert all(device.flops and device.memory >= 8 * 10**9 for device in DEVICES.values())
    assert DEVICES["h100"].flops == 989.5e12
