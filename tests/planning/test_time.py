"""The roofline, on numbers that can be checked by hand."""

import dataclasses
from pathlib import Path

import pytest

from tests.run_ranks import small_config
from trainer.config import PlanSettings
from trainer.planning.cluster import Cluster
from trainer.planning.communication import Transfer
from trainer.planning.devices import DEVICES, Device
from trainer.planning.layout import layout_of
from trainer.planning.time import step_time, transfer_seconds

IDEAL = PlanSettings(matmul_share=1.0, attention_share=1.0, link_share=1.0, latency_s=0.0)
DEVICE = Device("gpu", 1e12, 1e12, 10**10, 1e30, 100e9, 10e9, 0.0)


def layout(ranks, **changes):
    sizes = {"model__vocab_size": 512, "train__batch_size": 64, "train__micro_batch_size": 2, **changes}
    return layout_of(small_config(Path("data"), Path("run"), **sizes), ranks, cuda=True)


def test_without_traffic_the_step_takes_what_its_products_take():
    """6 FLOPs for each token and weight of a product; attention's seven products of half a square."""
    time = step_time(layout(1), Cluster(1, 8, DEVICE), IDEAL)
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
    seconds = transfer_seconds(Transfer(op, "data", handed_in), layout(8), cluster, IDEAL)
    assert seconds == pytest.approx(moved / 100e9)


def test_a_group_across_nodes_goes_at_the_speed_of_its_networks_together():
    transfer = Transfer("all_reduce", "data", 1600)
    whole_nodes = transfer_seconds(transfer, layout(16), Cluster(16, 8, DEVICE), IDEAL)
    assert whole_nodes == pytest.approx(2 * 1500 / 80e9)
    one_of_each = layout(16, model__num_key_value_heads=4, parallel__tensor=4)
    assert transfer_seconds(transfer, one_of_each, Cluster(16, 4, DEVICE), IDEAL) == pytest.approx(2 * 1200 / 10e9)


def test_what_backward_hides_costs_nothing_and_the_rest_does():
    stage = {"parallel__zero_stage": 2}
    slow = dataclasses.replace(DEVICE, node_link=1e3)
    fast = dataclasses.replace(DEVICE, node_link=1e15)
    hidden = step_time(layout(2, **stage), Cluster(2, 8, fast), IDEAL)
    exposed = step_time(layout(2, **stage), Cluster(2, 8, slow), IDEAL)
    assert hidden.total == pytest.approx(hidden.matmul, rel=1e-3)
    assert exposed.total > 100 * hidden.total


def test_every_device_of_the_table_has_a_peak():
    assert all(device.flops and device.memory >= 8 * 10**9 for device in DEVICES.values())
    assert DEVICES["h100"].flops == 989.5e12
