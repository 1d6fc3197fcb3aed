import math

import pytest

from trainer.track.metrics import bits_per_byte, flops_per_token, memory_bytes, mfu, peak_flops, perplexity


def test_flops_per_token_is_palms_formula_with_attention_not_halved():
    # 6·1000 + 12 · 2 layers · 4 heads · 8 wide · 16 tokens
    flops = flops_per_token(parameters=1000, layers=2, heads=4, head_dim=8, sequence_length=16)
    assert flops == 6000 + 12 * 2 * 4 * 8 * 16


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", 70),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_peak_is_the_dense_bf16_figure_of_the_data_sheet(name, teraflops):
    assert peak_flops(name) == pytest.approx(teraflops * 1e12)


@pytest.mark.parametrize(
    "name",
    ["cpu", "AMD EPYC", "Tesla T4", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GeForce RTX 4090 Laptop GPU", ""],
)
def test_no_peak_is_made_up_for_devices_without_a_known_one(name):
    assert peak_flops(name) is None


def test_mfu_is_achieved_over_peak():
    assert mfu(tokens_per_second=1e3, flops_per_token=2e9, peak_flops_per_second=4e12) == 0.5


def test_bits_per_byte_doesnt_depend_on_how_text_is_cut_into_tokens():
    coarse = bits_per_byte(nats_per_token=math.log(2) * 8, tokens=10, text_bytes=40)
    fine = bits_per_byte(nats_per_token=math.log(2) * 4, tokens=20, text_bytes=40)
    assert coarse == pytest.approx(fine) == pytest.approx(2.0)


def test_perplexity_overflows_to_infinity():
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert perplexity(1e6) == math.inf


def test_memory_is_the_devices_peak_where_there_is_one_else_this_process():
    assert memory_bytes(123) == 123
    assert memory_bytes() > 1_000_000
