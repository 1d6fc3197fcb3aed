"""Evaluation gives the same numbers at any world size, as training's own, of any checkpoint."""

import contextlib
import io
import json
import re
import shutil

import pytest

from tests.corpus import make_dataset, make_tokenizer
from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config
from trainer.config import Data, EvaluateVerb
from trainer.data.tokens.datasets import open_validation
from trainer.evaluate.loss import Score
from trainer.run.summary import too_large_to_sample
from trainer.verbs.evaluate import _in_words


def evaluate_into(argument):
    """The verb, with rank 0's output in a file."""
    from trainer.verbs.evaluate import main

    config, path = argument
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(config)
    if output.getvalue():
        path.write_text(output.getvalue())
    return code


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    config = small_config(corpus, run_dir, parallel__zero_stage=3, evaluate__every=5, checkpoint__every=5)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    return run_dir


def verb(run_dir, **data):
    config = EvaluateVerb()
    config.run.dir = str(run_dir)
    for key, value in data.items():
        setattr(config.data, key, value)
    return config


def read_scores(text):
    return {name: float(loss) for name, loss in re.findall(r"^(\S+): ([\d.]+) nats per token", text, re.MULTILINE)}


def test_scores_are_the_same_at_1_2_and_4_processes_and_training_s_own(trained, tmp_path):
    texts = []
    for world_size in (1, 2, 4):
        path = tmp_path / f"{world_size}.txt"
        assert run_ranks(evaluate_into, (verb(trained), path), world_size) == [0] * world_size
        texts.append(path.read_text())
    assert len(set(texts)) == 1
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    last = [row["eval/validation/loss"] for row in rows if "eval/validation/loss" in row][-1]
    assert read_scores(texts[0])["validation"] == pytest.approx(last, rel=1e-6)


def test_scores_of_a_bf16_run_are_training_s_own(corpus, tmp_path):
    run_dir, path = tmp_path / "run", tmp_path / "scores.txt"
    config = small_config(corpus, run_dir, train__precision="bf16", evaluate__every=10, evaluate__micro_batch_size=1)
    assert run_ranks(pretrain, config, 1) == [0]
    assert run_ranks(evaluate_into, (verb(run_dir), path), 1) == [0]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    last = [row["eval/validation/loss"] for row in rows if "eval/validation/loss" in row][-1]
    assert read_scores(path.read_text())["validation"] == pytest.approx(last, rel=1e-5)


def test_earlier_checkpoint_and_other_shards_can_be_scored(trained, corpus, tmp_path):
    config = verb(trained, path=str(corpus / "train"))
    config.checkpoint.step = 5
    assert run_ranks(evaluate_into, (config, tmp_path / "out"), 1) == [0]
    text = (tmp_path / "out").read_text()
    assert "step-00000005" in text
    assert read_scores(text).keys() == {"train"}


def test_shards_of_another_tokenizer_are_refused(trained, tmp_path):
    make_dataset(tmp_path / "other", documents=9, shards=1, tokenizer=make_tokenizer(280))
    codes, errors = fail_ranks(evaluate_into, (verb(trained, path=str(tmp_path / "other")), tmp_path / "out"))
    assert codes == [2]
    assert "another tokenizer than the run's" in errors[0]


def test_damaged_shards_are_refused_not_scored(trained, corpus, tmp_path):
    shutil.copytree(corpus / "validation", tmp_path / "damaged")
    shard = tmp_path / "damaged" / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[700:900], content[900:1100] = content[900:1100], content[700:900]
    shard.write_bytes(content)
    codes, errors = fail_ranks(evaluate_into, (verb(trained, path=str(tmp_path / "damaged")), tmp_path / "out"), 2)
    assert codes == [2, 2]
    assert all("its content isn't what the manifest says" in error for error in errors)


def test_step_that_was_not_saved_is_refused_with_those_that_were(trained, tmp_path):
    config = verb(trained)
    config.checkpoint.step = 7
    codes, errors = fail_ranks(evaluate_into, (config, tmp_path / "out"), 2)
    assert codes == [2, 2]
    assert "checkpoint.step=7: not in" in errors[0]
    assert "5, 10" in errors[0]


def test_rows_that_are_left_out_are_said(trained, corpus, tmp_path):
    config, path = verb(trained), tmp_path / "scores.txt"
    config.evaluate.rows = 5
    assert run_ranks(evaluate_into, (config, path), 1) == [0]
    total = open_validation(Data(path=str(corpus), sequence_length=32))[0].rows.total
    assert f"validation: the first 5 of {total} rows are scored (evaluate.rows=0 takes all)\n" in path.read_text()
    assert f"({5 * 32} tokens of" in path.read_text()


def test_a_model_that_is_too_large_for_a_rank_has_no_sample():
    assert too_large_to_sample(1000) is None
    assert too_large_to_sample(70_553_000_000) == (
        "no sample: the weights take 282 GB in one process; banyan generate makes one"
    )


def test_measures_with_a_slash_are_said_and_those_of_labels_are_in_the_table():
    score = Score(0.5, None, 4, "pairs", {"rewards/accuracies": 0.75, "f1/spam": 0.5})
    assert _in_words(score) == "loss 0.500000, rewards/accuracies 0.750000 (4 pairs"
