"""A run that can't fit is refused with numbers, and the mend that is named makes it fit."""

import re
from pathlib import Path

import pytest

from tests.run_ranks import small_config
from trainer.planning.fit import default_micro_batch, memory_problem
from trainer.planning.layout import layout_of
from trainer.planning.memory import MARGIN, memory_of


def config(**changes):
    sizes = {
        "model__hidden_size": 1024,
        "model__intermediate_size": 2816,
        "model__num_hidden_layers": 24,
        "model__vocab_size": 32768,
        "data__sequence_length": 2048,
        "train__batch_size": 64,
        "train__micro_batch_size": 8,
    }
    return small_config(Path("data"), Path("run"), **{**sizes, **changes})


def problem(run, ranks, memory):
    return memory_problem(run, ranks, memory=memory, cuda=True, device="a GPU")


def test_the_mend_that_is_named_makes_it_fit():
    memory = 24 * 10**9
    line = problem(config(), 8, memory)
    needed = float(re.search(r"each of 8 ranks needs ([\d.]+) GB \(.*\); a GPU has 24 GB", line)[1])
    assert needed == pytest.approx(memory_of(layout_of(config(), 8, cuda=True)).total / 1e9, rel=0.01)
    assert "activations" in line
    mend = re.search(r": use (.*?) \(", line)[1]
    keys = dict(word.replace(".", "__").split("=") for word in mend.split())
    changes = {key: int(value) if value.isdigit() else value for key, value in keys.items()}
    assert problem(config(**changes), 8, memory) is None


def test_a_prediction_within_its_error_of_the_memory_is_no_reason_to_refuse():
    total = memory_of(layout_of(config(), 8, cuda=True)).total
    assert problem(config(), 8, total) is None
    assert problem(config(), 8, int(total / (1 + MARGIN)) + 1) is None
    assert problem(config(), 8, int(total / (1 + MARGIN)) - 1) is not None


def test_where_nothing_helps_it_says_so():
    assert "no stage, checkpointing or micro-batch makes it fit" in problem(config(), 1, 10**8)


def small_rows(**changes):
    """124M with rows of 1,024, and no micro-batch given."""
    sizes = {
        "model__hidden_size": 768,
        "model__intermediate_size": 2048,
        "model__num_hidden_layers": 12,
        "model__num_attention_heads": 12,
        "model__num_key_value_heads": 12,
        "model__vocab_size": 50304,
        "data__sequence_length": 1024,
        "train__batch_size": 512,
        "train__micro_batch_size": None,
        "train__precision": "bf16",
    }
    return small_config(Path("data"), Path("run"), **{**sizes, **changes})


def test_a_gpu_s_default_micro_batch_is_by_tokens_and_fits():
    assert default_micro_batch(small_rows(), 1, cuda=True, memory=80 * 10**9) == 32
    assert default_micro_batch(small_rows(data__sequence_length=256), 1, cuda=True, memory=80 * 10**9) == 128
    small = default_micro_batch(small_rows(), 1, cuda=True, memory=10 * 10**9)
    assert 1 <= small < 32
    taken = small_rows(train__micro_batch_size=small)
    assert memory_of(layout_of(taken, 1, cuda=True)).total <= 10 * 10**9
    assert default_micro_batch(small_rows(), 1, cuda=True, memory=10**9) == 1


def test_a_default_micro_batch_divides_a_rank_s_share_and_counts_what_shares_rows():
    assert default_micro_batch(small_rows(train__batch_size=12 * 8), 8, cuda=True, memory=80 * 10**9) == 12
    sequence = small_rows(parallel__sequence=2, data__sequence_length=16384)
    assert default_micro_batch(sequence, 2, cuda=True, memory=80 * 10**9) == 4


def test_a_default_is_by_sequences_on_a_cpu_and_where_what_is_trained_is_not_known():
    assert default_micro_batch(small_rows(), 1, cuda=False, memory=None) == 8
    assert default_micro_batch(small_rows(model__path="/folder"), 1, cuda=True, memory=80 * 10**9) == 8
    assert default_micro_batch(small_rows(objective__name="dpo"), 1, cuda=True, memory=80 * 10**9) == 8
    assert default_micro_batch(small_rows(train__micro_batch_size=3), 1, cuda=True, memory=80 * 10**9) == 3
