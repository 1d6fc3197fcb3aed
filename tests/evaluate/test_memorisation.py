"""The audit finds a document that a model knows by heart, and names it, its source and its licence."""

import json
import random
import string

import pytest

from tests.corpus import WORDS
from tests.evaluate.judged import evaluate
from tests.prepared import write_jsonl
from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config
from trainer.config import Data, EvaluateVerb, Prepare, TextSource, TokenizerSettings, TokenizerTrain

PLANTED = " ".join(random.Random(5).choices(WORDS, k=110))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run over texts of chance, and one that is in them many times, of another source with another licence."""
    from trainer.verbs.prepare import main

    folder = tmp_path_factory.mktemp("memorised")
    draw = random.Random(1)
    chance = [" ".join("".join(draw.choices(string.ascii_lowercase, k=5)) for _ in range(40)) for _ in range(60)]
    write_jsonl(folder / "chance.jsonl", chance)
    write_jsonl(folder / "planted.jsonl", ["too short", *[PLANTED] * 40])
    data = Data(
        sources={
            "chance": TextSource(input=[str(folder / "chance.jsonl")], licence="CC0-1.0"),
            "book": TextSource(input=[str(folder / "planted.jsonl")], licence="all rights reserved"),
        },
        output=str(folder / "data"),
        deduplicate=False,
        validation_fraction=0.0,
        workers=1,
        tokenizer=TokenizerSettings(train=TokenizerTrain(vocab_size=340)),
    )
    assert main(Prepare(data=data)) == 0
    config = small_config(
        folder / "data", folder / "run", train__steps=150, data__sequence_length=96, optimizer__lr=1e-2
    )
    assert run_ranks(pretrain, config, 1) == [0]
    return folder / "run"


def configure(run_dir, output, **changes):
    config = EvaluateVerb()
    config.run.dir, config.audit, config.evaluate.output = str(run_dir), "memorisation", str(output)
    for name, value in changes.items():
        setattr(config.memorisation, name, value)
    return config


def test_a_planted_document_is_found_and_named_on_any_ranks(run_dir, tmp_path):
    for ranks in (1, 2):
        assert run_ranks(evaluate, configure(run_dir, tmp_path / f"{ranks}", prompts=150), ranks) == [0] * ranks
    found = json.loads((tmp_path / "1" / "memorisation.json").read_text())
    assert found == json.loads((tmp_path / "2" / "memorisation.json").read_text())
    assert found["tokens"] == 50
    assert found["prompt_tokens"] == 47  # what a context of 96 leaves
    assert 50 < found["asked"] <= 150
    assert found["memorised"]
    for record in found["memorised"]:
        assert record["source"] == "planted.jsonl"
        assert record["licence"] == "all rights reserved"
        assert record["record"] >= 1
        assert record["prompt"] + record["continuation"] in PLANTED
        assert len(record["positions"]) == record["places"] > 0


def test_what_cannot_be_asked_is_refused(run_dir, tmp_path):
    codes, errors = fail_ranks(evaluate, configure(run_dir, tmp_path / "out", prompt_tokens=60))
    assert codes == [2]
    assert "memorisation.prompt_tokens=60, memorisation.tokens=50: a prompt has 10 tokens or more" in errors[0]
    config = configure(run_dir, tmp_path / "out")
    config.run.dir, config.path = None, str(run_dir)
    codes, errors = fail_ranks(evaluate, config)
    assert codes == [2]
    assert "what a model was trained on is known of run.dir alone" in errors[0]
