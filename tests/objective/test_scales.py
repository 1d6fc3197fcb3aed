"""What an objective's losses are in is said wherever they are drawn or printed."""

import pytest

from trainer.config import Data, ObjectiveSettings
from trainer.data.tokens.manifest import read_manifest
from trainer.objective.build import KINDS, build_objective

SCALES = {
    "causal": "nats per token",
    "distill": "nats per token",
    "masked": "nats per masked token",
    "seq2seq": "nats per token of spans",
    "classify": "nats per text",
    "tag": "nats per word",
    **dict.fromkeys(("dpo", "simpo", "orpo", "reward"), "nats per pair"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_objective_says_what_its_losses_are_in(corpus, name):
    data = Data(packing="single" if KINDS[name].has_labels else "stream")
    objective = build_objective(ObjectiveSettings(name=name), data, read_manifest(corpus / "train"), seed=0)
    assert objective.scale == SCALES[name]


def test_ipo_s_losses_are_squares(corpus):
    settings = ObjectiveSettings(name="dpo", loss="ipo")
    assert build_objective(settings, Data(), read_manifest(corpus / "train"), seed=0).scale == "squared nats per pair"
