"""objective=dpo, simpo and orpo: values and gradients are those of the published formulas, computed by hand."""

import math

import numpy as np
import pytest
import torch

from tests.objective.pair_rows import VOCABULARY, answer_log_probability, draw_pairs, rows_of, tiny_model
from trainer.config import ObjectiveSettings
from trainer.data.tokens.loader import IGNORED
from trainer.errors import InputError
from trainer.objective.causal import Causal
from trainer.objective.dpo import Dpo
from trainer.objective.orpo import Orpo
from trainer.objective.pairs import batch_of_pairs
from trainer.objective.simpo import SimPO

LENGTH = 64
PAIRS = draw_pairs(6)
ROWS = [PAIRS[:2], PAIRS[2:3], PAIRS[3:]]
REFERENCE = {number: (-20.0 - number, -23.0 + number / 2) for number in range(len(PAIRS))}


def sigmoid(value):
    return 1 / (1 + torch.exp(-value))


def dpo_by_hand(pair, number, model, settings):
    """Equation 7 of Rafailov et al. and its kin, pair by pair."""
    chosen = answer_log_probability(model, pair.prompt, pair.chosen) - REFERENCE[number][0]
    rejected = answer_log_probability(model, pair.prompt, pair.rejected) - REFERENCE[number][1]
    if settings.length_normalised or settings.loss == "ipo":
        chosen, rejected = chosen / len(pair.chosen), rejected / len(pair.rejected)
    margin = chosen - rejected
    if settings.loss == "ipo":
        return (margin - 1 / (2 * settings.beta)) ** 2
    smooth = settings.label_smoothing
    right, wrong = sigmoid(settings.beta * margin), sigmoid(-settings.beta * margin)
    return -(1 - smooth) * torch.log(right) - smooth * torch.log(wrong)


def simpo_by_hand(pair, number, model, settings):
    """Equation 6 of Meng et al."""
    chosen = answer_log_probability(model, pair.prompt, pair.chosen) / len(pair.chosen)
    rejected = answer_log_probability(model, pair.prompt, pair.rejected) / len(pair.rejected)
    return -torch.log(sigmoid(settings.beta * (chosen - rejected) - settings.gamma))


def orpo_by_hand(pair, number, model, settings):
    """Equations 4, 6 and 7 of Hong et al."""
    chosen = answer_log_probability(model, pair.prompt, pair.chosen) / len(pair.chosen)
    rejected = answer_log_probability(model, pair.prompt, pair.rejected) / len(pair.rejected)
    odds = [torch.exp(mean) / (1 - torch.exp(mean)) for mean in (chosen, rejected)]
    return -chosen - settings.beta * torch.log(sigmoid(torch.log(odds[0] / odds[1])))


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


CASES = {
    "sigmoid": (Dpo, dpo_by_hand, {"beta": 0.2}),
    "smoothed": (Dpo, dpo_by_hand, {"beta": 0.2, "label_smoothing": 0.1}),
    "per token": (Dpo, dpo_by_hand, {"beta": 1.5, "length_normalised": True}),
    "ipo": (Dpo, dpo_by_hand, {"beta": 0.5, "loss": "ipo"}),
    "simpo": (SimPO, simpo_by_hand, {"beta": 2.0, "gamma": 0.7}),
    "orpo": (Orpo, orpo_by_hand, {"beta": 0.3}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [7, 2048])
def test_losses_and_gradients_are_the_formula_s(case, chunk):
    kind, by_hand, settings = CASES[case]
    settings = ObjectiveSettings(**settings)
    model = tiny_model(chunk=chunk)
    objective = kind(settings, Causal(LENGTH, None))
    batch = objective.to_batch(rows_of(ROWS, LENGTH, REFERENCE), positions=np.arange(3))
    assert objective.units(batch).tolist() == [2, 1, 3]
    found = objective.losses(model, batch)
    expected = [by_hand(pair, number, model, settings) for number, pair in enumerate(PAIRS)]
    rows = [sum(expected[:2]), expected[2], sum(expected[3:])]
    assert torch.allclose(found.rows.double(), torch.stack(rows), rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(model, found.rows.sum()), gradients(model, sum(expected))
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() <= 1e-5 * gradient.norm(), name
    assert theirs["lm_head.weight"].shape == (VOCABULARY, 16)


def test_at_the_reference_the_loss_is_ln_2_and_nothing_is_preferred():
    model = tiny_model()
    with torch.no_grad():
        reference = {
            number: tuple(
                answer_log_probability(model, pair.prompt, side).item() for side in (pair.chosen, pair.rejected)
            )
            for number, pair in enumerate(PAIRS)
        }
        objective = Dpo(ObjectiveSettings(beta=0.1), Causal(LENGTH, None))
        batch = objective.to_batch(rows_of(ROWS, LENGTH, reference), positions=np.arange(3))
        found = objective.losses(model, batch)
    assert abs(found.rows.sum().item() / len(PAIRS) - math.log(2)) < 1e-6
    assert abs(found.measures["rewards/margins"].sum().item()) < 1e-5
    chosen = sum(first for first, _ in reference.values())
    assert found.measures["logps/chosen"].sum().item() == pytest.approx(chosen, rel=1e-6)


def test_rows_that_pad_a_step_have_no_pairs_and_no_loss():
    objective = Dpo(ObjectiveSettings(), Causal(LENGTH, None))
    batch = objective.to_batch(rows_of(ROWS, LENGTH, REFERENCE), positions=np.arange(3)).without_targets(1)
    found = objective.losses(tiny_model(), batch)
    assert objective.units(batch).tolist() == [2, 0, 0]
    assert found.rows[1:].tolist() == [0, 0]
    assert all(values[1:].tolist() == [0, 0] for values in found.measures.values())
    found.rows.sum().backward()


def test_sides_do_not_see_each_other_and_the_seam_between_them_is_no_target():
    batch = batch_of_pairs(rows_of([PAIRS[:2]], LENGTH, REFERENCE), positions=np.arange(1))
    sizes = [len(PAIRS[0].prompt) + len(PAIRS[0].chosen), len(PAIRS[0].prompt) + len(PAIRS[0].rejected) - 1]
    assert batch.document_ids[0].tolist()[: sum(sizes)] == [0] * sizes[0] + [1] * sizes[1]
    assert batch.targets[0, sizes[0] - 1] == IGNORED
    model, wrong = tiny_model(), batch.inputs.clone()
    wrong[0, 0] = (wrong[0, 0] + 1) % VOCABULARY
    with torch.no_grad():
        before, after = (model(inputs, None, batch.document_ids) for inputs in (batch.inputs, wrong))
    assert torch.equal(before[0, sizes[0] : sum(sizes)], after[0, sizes[0] : sum(sizes)])
    assert not torch.equal(before[0, : sizes[0]], after[0, : sizes[0]])


@pytest.mark.parametrize("side", [1, 10_000])
def test_a_side_without_tokens_is_damage(side):
    rows = rows_of([PAIRS[:1]], LENGTH, REFERENCE)
    rows.by_document["sides"][0, 0] = side
    with pytest.raises(InputError, match="the shards are damaged"):
        batch_of_pairs(rows, positions=np.arange(1))
