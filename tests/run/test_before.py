"""A fine-tuning run says what became of each validation set, the former ones too."""

import json

import pytest

from tests.corpus import make_dataset, make_tokenizer
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import TrainingSet, ValidationSet


def test_former_data_are_replayed_and_scored_before_and_after(corpus, tmp_path):
    """The newer data have two tokens more; earlier ids agree, so both may be trained on and scored."""
    base = tmp_path / "base"
    assert run_ranks(pretrain, small_config(corpus, base, train__steps=3), 1) == [0]
    wide = make_tokenizer().with_special(["<|im_start|>", "<|im_end|>"])
    make_dataset(tmp_path / "new", documents=30, seed=7, tokenizer=wide)
    config = small_config(corpus, tmp_path / "run", train__steps=4, model__init_from=str(base))
    config.data.path = None
    config.data.train = {
        "former": TrainingSet(str(corpus), 1.0),
        "new": TrainingSet(str(tmp_path / "new"), 3.0),
    }
    config.data.validation = {"former": ValidationSet(str(corpus)), "new": ValidationSet(str(tmp_path / "new"))}
    config.evaluate.every, config.evaluate.at_start, config.evaluate.watch = 4, True, "former"
    assert run_ranks(pretrain, config, 2) == [0, 0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row["eval/former/loss"] for row in rows if "eval/former/loss" in row}
    assert set(scores) == {0, 4}
    for row in (row for row in rows if "train/loss" in row):
        parts = [(row[f"train/{name}/loss"], row[f"train/{name}/tokens"]) for name in ("former", "new")]
        assert [tokens / 32 for _, tokens in parts] == [2, 6]  # rows of a step, by weight
        mean = sum(loss * tokens for loss, tokens in parts) / (8 * 32)
        assert mean == pytest.approx(row["train/loss"], rel=1e-6)
    before = json.loads((tmp_path / "run" / "before.json").read_text())
    assert before["former"] == scores[0]
    summary = (tmp_path / "run" / "summary.txt").read_text()
    assert f"former: {scores[0]:.4f} nats per token before, {scores[4]:.4f} now" in summary
    assert "new: " in summary
    used = json.loads((tmp_path / "run" / "tokenizer" / "tokenizer.json").read_text())
    assert [token["content"] for token in used["added_tokens"]][-1] == "<|im_end|>"
