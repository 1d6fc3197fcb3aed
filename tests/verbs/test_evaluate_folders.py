"""Hugging Face folders are scored by what their class is for, or refused in a line that says what they are."""

import contextlib
import io
import json

import pytest
import torch
import torch.nn.functional as F

from tests.corpus import write_texts
from tests.labels import KINDS, copies, labelled, prepared, tagged
from tests.pairs import write_pairs
from tests.prepared import prepare, write_jsonl
from tests.run_ranks import run_ranks
from trainer.config import Checkpoint, EvaluateVerb, Run, TokenizerSettings
from trainer.data.tokens.loader import IGNORED
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.objective.build import build_objective
from trainer.objective.reward import LENGTHS, TEXTS
from trainer.run.frozen_model import find_frozen
from trainer.run.scored import find_hugging_face, scored_sets
from trainer.run.speaker import open_speaker
from trainer.verbs.evaluate import main as evaluate

# By name: kind of model, class of it, data
FOLDERS = {
    "masked": ("bert", "AutoModelForMaskedLM", "text"),
    "roberta": ("roberta", "AutoModelForMaskedLM", "text"),
    "pairs": ("t5", "AutoModelForSeq2SeqLM", "copies"),
    "spans": ("bart", "AutoModelForSeq2SeqLM", "text"),
    "classify": ("bert", "AutoModelForSequenceClassification", "labelled"),
    "tag": ("bert", "AutoModelForTokenClassification", "tagged"),
    "reward": ("gpt2", "AutoModelForSequenceClassification", "preferences"),
    "causal": ("gpt2", "AutoModelForCausalLM", "text"),
}
LABELS = {"classify": ["bad", "good"], "tag": ["O", "B-LOC", "B-PER", "I-LOC"], "reward": ["better"]}
SEEN = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Prepared data by name, all by one tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    made = {"text": prepare(write_jsonl(folder / "x.jsonl", write_texts(60)), folder / "text", validation_fraction=0.2)}
    settings = {"tokenizer": TokenizerSettings(path=str(made["text"]))}
    for name, (kind, records) in {
        "copies": ("seq2seq", copies(60)),
        "labelled": ("labelled", labelled(60)),
        "tagged": ("tagged", tagged(60)),
    }.items():
        made[name] = prepared(folder / name, kind, records, **settings)
    source, settings = write_pairs(folder / "pairs.jsonl", 40), {**settings, "format": "preference"}
    made["preferences"] = prepare(source, folder / "pairs", validation_fraction=0.2, **settings)
    return made


@pytest.fixture(scope="module")
def folders(data, tmp_path_factory):
    """A folder of each kind, as transformers writes it, with weights that were drawn."""
    import transformers

    tokenizer = load_tokenizer(data["text"] / "train")
    found = {}
    for name, (kind, auto_class, _) in FOLDERS.items():
        folder = found[name] = tmp_path_factory.mktemp(name)
        fields = {"vocab_size": tokenizer.vocab_size + 20, "pad_token_id": tokenizer.end_of_text_id, **KINDS[kind]}
        if name in LABELS:
            fields["id2label"] = dict(enumerate(LABELS[name]))
            fields["label2id"] = {label: number for number, label in enumerate(LABELS[name])}
        config = transformers.AutoConfig.for_model(kind, **fields)
        if kind in ("t5", "bart"):
            config.decoder_start_token_id = tokenizer.end_of_text_id
        torch.manual_seed(0)
        model = getattr(transformers, auto_class).from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        tokenizer.save(folder)
    return found


def verb(folders, data, name, source=None):
    config = EvaluateVerb()
    config.path, config.data.path = str(folders[name]), str(data[source or FOLDERS[name][2]])
    config.data.sequence_length = SEEN
    return config


def evaluate_each(argument):
    """What evaluate prints of each configuration, as JSON in a file."""
    configs, path = argument
    printed = []
    for config in configs:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            assert evaluate(config) == 0
        printed.append(output.getvalue().splitlines())
    path.write_text(json.dumps(printed))
    return 0


@torch.no_grad()
def own_loss(model, name, batch):
    """By transformers alone, a row at a time and without padding; the mean over what counts."""
    losses, count = 0.0, 0
    for row in range(len(batch.inputs)):
        there = slice(None) if batch.document_ids is None else batch.document_ids[row] == 0
        tokens, targets = batch.inputs[row][there][None], batch.targets[row]
        if name == "reward":
            lengths = batch.more[LENGTHS][row].tolist()
            texts = [text[:length][None] for text, length in zip(batch.more[TEXTS][row], lengths, strict=True)]
            chosen, rejected = (model(input_ids=text).logits[0, 0] for text in texts)
            losses, count = losses - F.logsigmoid(chosen - rejected).item(), count + 1
        elif name in ("pairs", "spans"):
            wanted = targets[targets != IGNORED][None]
            loss = model(input_ids=tokens, labels=wanted).loss.item()
            losses, count = losses + loss * wanted.numel(), count + wanted.numel()
        else:
            logits = model(input_ids=tokens).logits[0]
            wanted = targets[:1] if name == "classify" else targets[there]
            losses += F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum").item()
            count += int((wanted != IGNORED).sum())
    return losses / count, count


def test_scores_of_folders_equal_transformers_own(folders, data, tmp_path):
    import transformers

    configs = [verb(folders, data, name) for name in FOLDERS]
    assert run_ranks(evaluate_each, (configs, tmp_path / "printed"), 1) == [0]
    printed = json.loads((tmp_path / "printed").read_text())
    for (name, (_, auto_class, _)), config, lines in zip(FOLDERS.items(), configs, printed, strict=True):
        subject = find_hugging_face(config)
        (each,) = scored_sets(subject, config.data)
        objective = build_objective(each.objective, each.data, each.dataset.manifest, seed=0)
        numbers = torch.arange(each.dataset.rows.total).numpy()
        batch = objective.to_batch(each.dataset.rows_in_file_order(numbers), positions=numbers)
        model = getattr(transformers, auto_class).from_pretrained(folders[name]).eval()
        loss, count = own_loss(model, name, batch)
        words = lines[1].replace("loss ", "").split()
        assert float(words[1].strip(",")) == pytest.approx(loss, rel=1e-4), (name, lines)
        assert f"({count:,} {objective.unit}" in lines[1]
    assert any(line.strip().startswith("good") for line in printed[list(FOLDERS).index("classify")])
    assert "rewards/accuracies" in printed[list(FOLDERS).index("reward")][1]


def test_rows_are_no_longer_than_what_the_model_sees(folders, data):
    config = verb(folders, data, "roberta")
    config.data.sequence_length = 500
    subject = find_hugging_face(config)
    unused = load_tokenizer(data["text"] / "train").end_of_text_id + 1  # RoBERTa's positions begin behind it
    assert subject.config.data.sequence_length == 66 - unused
    assert f"rows of {66 - unused} tokens, all that it sees" in subject.name


REFUSED = {
    ("classify", "text"): "its texts have no labels",
    ("tag", "labelled"): "its words have no tags",
    ("causal", "preferences"): "holds pairs of answers",
    ("masked", "preferences"): "holds pairs of answers",
}


@pytest.mark.parametrize(("name", "source"), list(REFUSED))
def test_data_of_another_kind_are_refused(folders, data, name, source):
    with pytest.raises((ConfigError, InputError), match=REFUSED[name, source]):
        list(scored_sets(find_hugging_face(verb(folders, data, name, source)), verb(folders, data, name, source).data))


def test_labels_in_another_order_are_refused(folders, data, tmp_path):
    settings = {"tokenizer": TokenizerSettings(path=str(data["text"])), "labels": ["good", "bad"]}
    config = verb(folders, data, "classify")
    config.data.path = str(prepared(tmp_path, "labelled", labelled(60), **settings))
    subject = find_hugging_face(config)
    (each,) = scored_sets(subject, config.data)
    with pytest.raises(InputError, match="trained on the labels bad, good in this order, and the data have good, bad"):
        subject.load(each.model, torch.device("cpu"))


@pytest.mark.parametrize("name", ["masked", "classify", "tag", "reward"])
def test_folders_that_do_not_write_are_refused_and_told_of_evaluate(folders, name):
    with pytest.raises(ConfigError, match=r"doesn't write text; measure it by banyan evaluate path=.*pipeline\("):
        open_speaker(Run(), Checkpoint(), str(folders[name]))
    with pytest.raises(ConfigError, match="doesn't say what follows a text"):
        find_frozen(str(folders[name]), key="data.teacher")


def test_a_bidirectional_model_without_a_named_class_is_no_writer(folders):
    path = folders["masked"] / "config.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "architectures": None}))
    try:
        with pytest.raises(InputError, match=r"bert isn't causal: .* can't say what follows a text"):
            open_speaker(Run(), Checkpoint(), str(folders["masked"]))
    finally:
        path.write_text(json.dumps(fields))


def test_path_of_a_run_directory_is_told_of_run_dir(tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=f"a run directory; give it as run.dir={tmp_path}"):
        open_speaker(Run(), Checkpoint(), str(tmp_path))
