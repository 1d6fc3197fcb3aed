"""What is compiled, and which products are taken together, by device, layout and what was asked for."""

import pytest

from tests.rules.test_pretrain import config
from trainer.config.values import check_values
from trainer.errors import ConfigError
from trainer.rules.compiled import check_compile, settle_compile, settle_merging
from trainer.rules.pretrain import check_pretrain


def test_auto_compiles_our_blocks_where_devices_can():
    assert settle_compile(config(), can_compile=True) is True
    assert settle_compile(config(), can_compile=False) is False
    assert settle_compile(config(train__compile=True), can_compile=False) is True
    assert settle_compile(config(train__compile=False), can_compile=True) is False


@pytest.mark.parametrize(
    "changes",
    [{"train__activation_checkpointing": "selective"}, {"model__path": "/somewhere"}, {"model__kind": "lstm"}],
    ids=str,
)
def test_auto_leaves_alone_what_cannot_be_compiled(changes):
    assert settle_compile(config(**changes), can_compile=True) is False


def test_products_are_merged_where_autocast_copies_their_weights_anyway():
    bf16 = {"train__precision": "bf16"}
    assert settle_merging(config(**bf16), cuda=True)
    assert not settle_merging(config(**bf16), cuda=False)
    assert not settle_merging(config(train__precision="fp32"), cuda=True)
    assert not settle_merging(config(**bf16, parallel__zero_stage=1), cuda=True)
    assert not settle_merging(config(**bf16, parallel__tensor=2), cuda=True)
    assert not settle_merging(config(**bf16, train__compile=False), cuda=True)
    assert settle_merging(config(train__precision="fp32", train__merge_products=True), cuda=False)
    assert not settle_merging(config(**bf16, train__merge_products=False), cuda=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallel__tensor": 2}, "DeepSpeed's layers exchange"),
        ({"parallel__zero_stage": 3}, "brings each matrix by itself"),
        ({"adapt__name": "lora"}, "adapters stand beside"),
    ],
)
def test_products_that_cannot_be_merged_are_refused_in_a_line(changes, words):
    with pytest.raises(ConfigError, match=r"train\.merge_products=true with ") as caught:
        check_compile(config(train__merge_products=True, **changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    check_compile(config(**changes))


def test_a_word_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(ConfigError, match=r"train\.compile=often: not known; choose one of true, false, auto\."):
        check_values(config(train__compile="often"))
    check_pretrain(config(train__compile="auto"), 1)
