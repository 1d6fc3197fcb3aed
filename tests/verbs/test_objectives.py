"""From records to answers: what is trained by objectives that aren't causal learns, is exported, and is asked."""

import json

import pytest
import torch

from tests.labels import configure, copies, labelled, prepared, tagged, tokenizer_of, write_config
from tests.prepared import prepare, write_jsonl
from tests.run_ranks import fail_ranks, pretrain, run_ranks, start_ranks
from tests.verbs.test_evaluate import evaluate_into
from tests.verbs.test_evaluate import verb as evaluate_verb
from trainer.config import Checkpoint, Explain, Export, Run, ValidationSet
from trainer.data.tokens.datasets import open_validation
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.evaluate.batch_sampling import Continuation, continue_together
from trainer.evaluate.sampling import Sampling
from trainer.rules.pretrain import check_pretrain
from trainer.run.directory import read_config
from trainer.run.objective import settle_objective
from trainer.run.speaker import open_speaker
from trainer.verbs.explain import main as explain
from trainer.verbs.export import main as export

LIKELIEST = Sampling(max_tokens=8, temperature=0)


def learn(config, steps, lr):
    """Trains, and returns what was logged of the validation set at the end."""
    config.train.steps, config.optimizer.lr, config.evaluate.every = steps, lr, steps
    config.train.batch_size, config.train.micro_batch_size, config.track.every = 32, 32, steps
    config.optimizer.weight_decay = 0.0
    assert start_ranks(pretrain, config, 1).wait(timeout_s=1200) == [0]
    with open(f"{config.run.dir}/metrics.jsonl") as lines:
        rows = [json.loads(line) for line in lines]
    return next(row for row in reversed(rows) if "eval/validation/loss" in row)


def export_run(run_dir, folder):
    verb = Export()
    verb.run.dir, verb.export.output = str(run_dir), str(folder)
    assert export(verb) == 0
    return folder


def test_t5_learns_to_copy_and_writes_it(tmp_path):
    data = prepared(tmp_path / "data", "seq2seq", copies(400, longest=2, letters="abcd"), validation_fraction=0.0)
    config = configure(
        data, tmp_path / "run", write_config(tmp_path / "model", "t5"), "seq2seq", data__packing="single"
    )
    config.data.sequence_length = 8
    config.data.validation = {"validation": ValidationSet(str(data / "train"))}
    assert learn(config, 160, 1e-2)["eval/validation/loss"] < 0.3
    speaker = open_speaker(Run(dir=str(tmp_path / "run")), Checkpoint(), None)
    for text in ("a b", "d c", "d"):
        assert "".join(speaker.continue_prompt(text, LIKELIEST)) == text
    rows = [Continuation(speaker.prompt_ids(text), speaker.ends, LIKELIEST) for text in ("a b", "d", "c a")]
    continue_together(speaker.model, rows, context_length=speaker.context_length)
    assert ["".join(speaker.decoded(row.prompt, row.tokens)) for row in rows] == ["a b", "d", "c a"]

    from transformers import AutoModelForSeq2SeqLM

    folder = export_run(tmp_path / "run", tmp_path / "out")
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    ids = torch.tensor([speaker.prompt_ids("d c")])
    asked = open_speaker(Run(), Checkpoint(), str(folder))
    assert "".join(asked.continue_prompt("d c", LIKELIEST)) == "d c"
    with pytest.raises(InputError, match="an encoder–decoder, which predicts no next token"):
        explain(Explain(run=Run(dir=str(tmp_path / "run")), prompt="d c"))
    drawn = [Sampling(max_tokens=8, temperature=3.0, seed=seed) for seed in range(5)]
    both = [["".join(each.continue_prompt("d c", one)) for one in drawn] for each in (speaker, asked)]
    assert both[0] == both[1]  # a run in fp32 draws what its export does
    assert len(set(both[0])) > 1
    written = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=8)
    assert load_tokenizer(folder).decode(written[0, 1:-1].tolist()) == "d c"


def test_bert_learns_a_cloze_and_fills_masks(tmp_path):
    words = ["red", "green", "blue", "white", "black", "brown", "pink", "grey"]
    texts = [" ".join([words[number % 8]] * (20 + number // 8)) for number in range(240)]
    settings = {"validation_fraction": 0.2, "tokenizer": tokenizer_of(300)}
    data = prepare(write_jsonl(tmp_path / "x.jsonl", texts), tmp_path / "data", **settings)
    config = configure(data, tmp_path / "run", write_config(tmp_path / "model", "bert"), "masked")
    assert learn(config, 130, 6e-3)["eval/validation/loss"] < 0.9

    from transformers import pipeline

    fill = pipeline("fill-mask", model=str(export_run(tmp_path / "run", tmp_path / "out")))
    found = fill(f"pink pink pink{fill.tokenizer.mask_token} pink pink pink pink pink pink")
    assert found[0]["token_str"].strip() == "pink"


def scores_printed(run_dir, output):
    assert run_ranks(evaluate_into, (evaluate_verb(run_dir), output), 1) == [0]
    return output.read_text()


def test_texts_are_classified_with_scikit_learns_figures(tmp_path):
    from sklearn.metrics import f1_score
    from transformers import pipeline

    records = labelled(150) + [{"text": f"nobody knows {n}", "label": "good" if n % 3 else "bad"} for n in range(60)]
    data = prepared(tmp_path / "data", "labelled", records)
    config = configure(data, tmp_path / "run", write_config(tmp_path / "model", "bert"), "classify")
    config.objective.class_weights = {"bad": 1.5}
    row = learn(config, 40, 3e-3)
    pipe = pipeline("text-classification", model=str(export_run(tmp_path / "run", tmp_path / "out")))
    manifest, tokenizer = read_manifest(data / "validation"), load_tokenizer(data / "validation")
    (shard,) = open_shards(manifest)
    gold, predicted = [], []
    for number in range(len(shard.index)):
        block, first = shard.block(number), 0
        for length, label in zip(block.lengths.tolist(), block.members["label"][:, 0].tolist(), strict=True):
            gold.append(manifest.labels[label - 1])
            predicted.append(pipe(tokenizer.decode(block.tokens[first : first + length - 1]))[0]["label"])
            first += length
    assert 0.5 < row["eval/validation/f1_macro"] < 1
    assert row["eval/validation/f1_macro"] == pytest.approx(f1_score(gold, predicted, average="macro"))
    assert row["eval/validation/f1/bad"] == pytest.approx(f1_score(gold, predicted, pos_label="bad"))
    printed = scores_printed(tmp_path / "run", tmp_path / "scores")
    assert f"f1_macro {row['eval/validation/f1_macro']:.6f}" in printed
    assert "precision    recall        f1" in printed

    # and goes on from a trained head, in its own order of labels alone
    more = configure(data, tmp_path / "more", tmp_path / "out", "classify")
    assert run_ranks(pretrain, more, 1) == [0]
    other = prepared(tmp_path / "other", "labelled", records, labels=["good", "bad"])
    codes, errors = fail_ranks(pretrain, configure(other, tmp_path / "never", tmp_path / "out", "classify"))
    assert codes == [2]
    assert "its head was trained on the labels bad, good in this order" in errors[0] or "another tokenizer" in errors[0]


def test_words_are_tagged(tmp_path):
    from transformers import pipeline

    data = prepared(tmp_path / "data", "tagged", tagged(200))
    config = configure(data, tmp_path / "run", write_config(tmp_path / "model", "bert"), "tag")
    assert learn(config, 40, 5e-3)["eval/validation/f1_micro"] > 0.9
    pipe = pipeline("token-classification", model=str(export_run(tmp_path / "run", tmp_path / "out")))
    assert [found["entity"] for found in pipe("Anna went to New York on day 3")][:1] == ["B-PER"]


# ------------------------------------------------------------------------------------------------------------- refusals


def of_kind(corpus, tmp_path, kind, objective, **changes):
    return configure(corpus, tmp_path / "run", write_config(tmp_path / "model", kind), objective, **changes)


def refused(config):
    codes, errors = fail_ranks(pretrain, config)
    assert codes == [2], errors
    return errors[0]


def test_labels_of_a_run_in_another_order_than_the_data_s_are_refused(tmp_path):
    data = prepared(tmp_path / "data", "labelled", labelled(60))
    config = configure(data, tmp_path / "run", write_config(tmp_path / "model", "bert"), "classify")
    for labels in (["good", "bad"], ["bad"], ["bad", "good", "ugly"]):
        config.objective.labels = labels
        with pytest.raises(ConfigError, match=r"the data have bad,good in this order"):
            settle_objective(config)
    config.objective.labels = ["bad", "good"]
    assert settle_objective(config).objective.labels == ["bad", "good"]


def test_bidirectional_model_for_causal_training_is_told_of_masked(corpus, tmp_path):
    config = of_kind(corpus, tmp_path, "bert", "causal")
    assert "bert isn't causal" in refused(config)
    assert "objective=masked" in refused(config)


def test_causal_model_for_masked_training_is_refused(corpus, tmp_path):
    assert "gpt2 is no Hugging Face masked language model" in refused(of_kind(corpus, tmp_path, "gpt2", "masked"))
    config = of_kind(corpus, tmp_path, "bert", "masked")
    config.model.overrides = {"is_decoder": True}
    assert "bert is causal here" in refused(config)


def test_model_without_room_for_the_mask_is_refused(corpus, tmp_path):
    config = of_kind(corpus, tmp_path, "bert", "masked")
    vocabulary = read_manifest(corpus / "train").vocab_size
    config.model.overrides = {"vocab_size": vocabulary}
    assert f"set model.overrides.vocab_size={vocabulary + 1}" in refused(config)


@pytest.mark.parametrize(
    ("kind", "objective", "words"),
    [
        ("bert", "classify", "its texts have no labels"),
        ("bert", "tag", "its texts have no labels"),
        ("bert", "seq2seq", "bert is no Hugging Face encoder–decoder"),
    ],
)
def test_shards_or_models_without_what_an_objective_needs(corpus, tmp_path, kind, objective, words):
    with pytest.raises((ConfigError, InputError), match=words):
        settle_objective(of_kind(corpus, tmp_path, kind, objective))


RULES = {
    "no path": ({}, "Banyan's own models are causal"),
    "whole": ({"data__packing": "whole"}, "data.packing=whole with objective=masked"),
    "tensor": ({"parallel__tensor": 2}, "parallel.tensor=2 with objective=masked"),
    "spans": ({"objective__spans": True}, "objective.spans is for objective=seq2seq"),
    "weights": ({"objective__class_weights": {"a": 2.0}}, "class_weights is for objective=classify and tag"),
}


@pytest.mark.parametrize("case", RULES)
def test_settings_that_do_not_go_together(corpus, tmp_path, case):
    changes, words = RULES[case]
    config = of_kind(corpus, tmp_path, "bert", "masked", **changes)
    if case == "no path":
        config.model.path = None
    with pytest.raises(ConfigError, match=words):
        check_pretrain(config, 2)


def test_run_keeps_its_labels_and_head(tmp_path):
    data = prepared(tmp_path / "data", "labelled", labelled(60))
    config = configure(data, tmp_path / "run", write_config(tmp_path / "model", "bert"), "classify")
    config.train.steps = 1
    assert run_ranks(pretrain, config, 1) == [0]
    kept = read_config(tmp_path / "run")
    assert (kept.model.head, kept.objective.labels) == ("classify", ["bad", "good"])
    with pytest.raises(ConfigError, match="a classifier of texts doesn't write text"):
        open_speaker(Run(dir=str(tmp_path / "run")), Checkpoint(), None)
    assert len(open_validation(kept.data, ("label",))) == 1
