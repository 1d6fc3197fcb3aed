"""A small student learns more from SmolLM2-135M than from the text alone: minutes on a CPU, so full runs only.

What it needs is at the head of tests/test_smollm2.py.
"""

import json
import pydoc_data.topics

from tests.prepared import prepare, write_jsonl
from tests.run_ranks import pretrain, small_config, start_ranks
from tests.test_smollm2 import folder, pytestmark
from trainer.config import TokenizerSettings

__all__ = ["folder", "pytestmark"]  # a fixture, and when it is skipped


def test_a_student_of_four_layers_learns_more_from_smollm2_than_from_the_text_alone(folder, tmp_path):
    """At equal steps, on the reference manual of Python: some 16,000 tokens. The loss is that of the text itself."""
    topics = sorted(pydoc_data.topics.topics.values(), key=len)[-50:-20]
    source = write_jsonl(tmp_path / "topics.jsonl", [topic[:2500] for topic in topics])
    data = prepare(
        source,
        tmp_path / "taught",
        tokenizer=TokenizerSettings(path=str(folder)),
        teacher=str(folder),
        validation_fraction=0.2,
        workers=2,
    )
    losses = {}
    for alpha in (0.0, 0.7):
        run_dir = tmp_path / f"alpha-{alpha}"
        config = small_config(data, run_dir, objective__name="distill", objective__alpha=alpha, evaluate__every=60)
        config.data.packing, config.data.sequence_length = "whole", 64
        model = config.model
        model.num_hidden_layers, model.hidden_size, model.intermediate_size = 4, 96, 256
        model.tie_word_embeddings, config.train.steps = True, 60
        assert start_ranks(pretrain, config, 1).wait(timeout_s=1200) == [0]
        (last,) = [row for row in read_evaluations(run_dir) if row["step"] == 60]
        losses[alpha] = last["eval/validation/loss"]
    assert losses[0.7] < losses[0.0] - 0.05


def read_evaluations(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "eval/validation/loss" in row]
