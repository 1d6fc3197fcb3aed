"""Mutated datasets, checkpoints, texts and run directories through the verbs that read them."""

import pytest

from tests.fuzz.check import CASES, FULL_CASES, any_seed, check
from tests.fuzz.runner import folders

VERBS = ("data", "checkpoint", "prepare", "generate", "export")


@pytest.fixture(scope="module")
def root():
    with folders() as folder:
        yield folder


@pytest.mark.parametrize("verb", VERBS)
def test_a_mutated_input_is_read_right_or_refused_in_a_line(verb, root):
    check(verb, root, cases=CASES, seed0=0)


@pytest.mark.full
@pytest.mark.parametrize("verb", VERBS)
def test_thousands_of_mutated_inputs_are_read_right_or_refused_in_a_line(verb, root):
    check(verb, root, cases=FULL_CASES, seed0=any_seed())
