"""data.format=labelled, tagged and seq2seq: what becomes of records, in shards and where they are wrong."""

import json

import numpy as np
import pytest

from tests.labels import labelled, prepared, tagged, write_records
from tests.prepared import prepare
from trainer.config import Data
from trainer.config.data import Augment
from trainer.data.examples.augment import Augmentation, augmentation_of, read_synonyms
from trainer.data.examples.formats import from_bytes, to_bytes
from trainer.data.examples.labelled import ordered_labels, sentences
from trainer.data.examples.render_labelled import LabelRenderer
from trainer.data.tokens.dataset import open_dataset
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.packing import Packing
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.tokens.verify import verify
from trainer.errors import ConfigError, InputError
from trainer.rules.examples import check_examples


def documents_of(folder):
    """(ids without the last end of text, members of the block) of every document."""
    manifest = read_manifest(folder)
    for shard in open_shards(manifest):
        for number in range(len(shard.index)):
            block, first = shard.block(number), 0
            for place, length in enumerate(block.lengths.tolist()):
                rows = slice(first, first + length)
                by_token = {name: block.members[name][rows] for name in block.members if name == "tags"}
                by_document = {name: block.members[name][place] for name in block.members if name != "tags"}
                yield block.tokens[rows], {**by_token, **by_document}
                first += length


def test_labels_are_numbered_and_stored_with_their_texts(tmp_path):
    records = labelled(60)
    folder = prepared(tmp_path, "labelled", records, validation_fraction=0.0) / "train"
    manifest = read_manifest(folder)
    assert manifest.labels == ("bad", "good")
    assert verify(manifest) == []
    tokenizer = load_tokenizer(folder)
    found = {tokenizer.decode(ids[:-1]): int(members["label"][0]) for ids, members in documents_of(folder)}
    assert found == {record["text"]: 1 + manifest.labels.index(record["label"]) for record in records}


def test_a_word_has_its_tag_at_its_first_token(tmp_path):
    folder = prepared(tmp_path, "tagged", tagged(40), validation_fraction=0.0) / "train"
    manifest, tokenizer = read_manifest(folder), load_tokenizer(folder)
    assert manifest.labels == ("O", "B-LOC", "B-PER", "I-LOC")
    dataset = open_dataset(
        "train",
        str(folder),
        key="-",
        split="train",
        sequence_length=48,
        packing=Packing(0, True, True),
        members=("tags",),
    )
    rows = dataset.rows_in_file_order(np.arange(dataset.rows.total))
    written = set()
    for row, ids, tags in zip(rows.inputs, rows.document_ids, rows.by_token["tags"][..., 0], strict=True):
        words: list[tuple[str, str]] = []
        for token, tag in zip(row[ids == 0].tolist(), tags[ids == 0].tolist(), strict=True):
            text = tokenizer.decode([token])
            if tag:
                words.append((text.strip(), manifest.labels[tag - 1]))
            else:
                words[-1] = (words[-1][0] + text, words[-1][1])
        written.add(tuple(words))
    assert written == {tuple(zip(record["tokens"], record["tags"], strict=True)) for record in tagged(40)}


def test_columns_of_conll_are_the_same_as_json(tmp_path):
    lines = []
    for record in tagged(30):
        lines += [f"{word}\tNN\t{tag}" for word, tag in zip(record["tokens"], record["tags"], strict=True)] + [""]
    (tmp_path / "x.conll").write_text("\n".join(["-DOCSTART- -X- O", "", "# sent_id = 1", *lines]))
    settings = {"format": "tagged", "deduplicate": False}
    prepare(write_records(tmp_path / "x.jsonl", tagged(30)), tmp_path / "json", **settings)
    prepare(tmp_path / "x.conll", tmp_path / "columns", **settings)
    shard = "train/shard-000000.tar"
    assert (tmp_path / "json" / shard).read_bytes() == (tmp_path / "columns" / shard).read_bytes()


def test_a_sentence_without_a_tag_is_named():
    found = list(sentences([b"Anna B-PER", b"went", b"", b"to O"]))
    assert str(found[0]) == "the line 'went' has no tag"
    assert found[1] == {"tokens": ["to"], "tags": ["O"]}


def test_words_of_scripts_without_blanks_are_joined():
    class Letters:
        end_of_text_id, special_ids = 0, {}

        def encode(self, text):
            return list(text)

        class engine:
            @staticmethod
            def encode(text, add_special_tokens):
                class Encoding:
                    ids = ["[", *text, "]"] if add_special_tokens else list(text)

                return Encoding

    ids, _, tags = LabelRenderer(Letters(), ("O", "X")).tagged(
        {"words": ["我", "在", "a", "b"], "tags": ["O", "X", "O", "X"]}
    )
    assert "".join(map(str, ids)) == "[我在 a b]0"
    assert tags.tolist() == [0, 0, 1, 2, 1, 0, 2, 0, 0]


BAD = {
    "labelled": [
        ({"text": "x"}, "no text in 'text' and label in 'label'"),
        ({"text": " ", "label": "a"}, "an empty text"),
        ({"text": "x", "label": 0.5}, "'0.5' is no label"),
        ({"text": "x", "label": "other"}, "line 2: the label 'other' isn't in data.labels"),
    ],
    "tagged": [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 tokens and 1 tags"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "token 2 is no text"),
    ],
    "seq2seq": [
        ({"source": "a", "target": " "}, "an empty target"),
        ({"source": "a"}, "no texts in source and target"),
    ],
}
RIGHT = {
    "labelled": {"text": "x y", "label": "a"},
    "tagged": {"tokens": ["a"], "tags": ["a"]},
    "seq2seq": {"source": "a", "target": "b"},
}


@pytest.mark.parametrize(("kind", "record", "words"), [(kind, *case) for kind, cases in BAD.items() for case in cases])
def test_what_is_wrong_with_a_record_is_said_by_its_line(tmp_path, kind, record, words):
    source = write_records(tmp_path / "x.jsonl", [RIGHT[kind], record])
    labels = [] if kind == "seq2seq" else ["a", "O"]
    with pytest.raises(InputError, match=words) as raised:
        prepare(source, tmp_path / "out", format=kind, labels=labels)
    assert "x.jsonl, line 2" in str(raised.value)


def test_labels_are_in_the_order_of_numbers_or_of_the_alphabet():
    assert ordered_labels(["10", "9"]) == ("9", "10")
    assert ordered_labels(["b", "O", "a"]) == ("O", "a", "b")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"augment": Augment(copies=1), "format": "tagged"}, "data.augment.copies=1 with data.format=tagged"),
        ({"augment": Augment(copies=1)}, "data.augment.copies is for data.format=labelled"),
        ({"augment": Augment(delete=0.5), "format": "labelled"}, "data.augment.delete=0.5 does nothing where"),
        ({"labels": ["a"], "format": "chat"}, "data.labels is for labelled or tagged data"),
        ({"labels": ["a", "a"], "format": "labelled"}, "names a label twice"),
    ],
)
def test_settings_of_other_formats_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        check_examples(Data(**settings))


# --------------------------------------------------------------------------------------------------------- augmentation

TEXT = "The quick brown fox jumps over the lazy dog, and doesn't rest."


def copies(seed=0, text=TEXT, synonyms=None, **settings):
    augmentation = Augmentation(Augment(copies=3, **settings), synonyms or {}, seed)
    return [from_bytes(copy)["text"] for copy in augmentation.copies(to_bytes({"text": text, "label": "x"}))]


def test_copies_are_a_function_of_seed_and_record():
    assert copies() == copies()
    assert copies() != copies(seed=1)
    assert copies(delete=0, swap=0, replace=0) == []  # nothing changed: no copy


def test_each_operation_does_what_it_says():
    swapped = copies(delete=0, replace=0, swap=0.2)[0]
    assert sorted(swapped.replace(",", "").replace(".", "").split()) == sorted(
        TEXT.replace(",", "").replace(".", "").split()
    )
    assert "," in swapped
    shorter = copies(delete=0.5, swap=0, replace=0)[0].replace(",", "").replace(".", "").split()
    assert 0 < len(shorter) < len(TEXT.split())
    table = {"quick": ("fast",), "the": ("a",)}
    assert (
        copies(synonyms=table, delete=0, swap=0, replace=1.0)[0]
        == "A fast brown fox jumps over a lazy dog, and doesn't rest."
    )
    assert copies(text="我爱北京", delete=0.0, replace=0, swap=0.5)[0] != "我爱北京"


def test_only_training_texts_are_augmented(tmp_path):
    records = labelled(80)
    plain = prepared(tmp_path / "plain", "labelled", records)
    more = prepared(tmp_path / "more", "labelled", records, augment=Augment(copies=2))
    count = {name: read_manifest(folder / "train").documents for name, folder in (("plain", plain), ("more", more))}
    assert 2 * count["plain"] < count["more"] <= 3 * count["plain"]
    validation = [read_manifest(folder / "validation") for folder in (plain, more)]
    assert validation[0].documents == validation[1].documents
    assert verify(read_manifest(more / "train")) == []


def test_table_of_synonyms(tmp_path):
    (tmp_path / "s.tsv").write_text("big\tlarge\thuge\n\nsmall\tlittle\n")
    table = read_synonyms(str(tmp_path / "s.tsv"))
    assert table["big"] == ("large", "huge")
    assert augmentation_of(Augment(), 0) is None
    (tmp_path / "s.tsv").write_text("alone\n")
    with pytest.raises(InputError, match="line 1: two words or more"):
        read_synonyms(str(tmp_path / "s.tsv"))


def test_manifest_says_the_labels_and_is_another_for_others(tmp_path):
    folder = prepared(tmp_path, "labelled", labelled(40)) / "train"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["labels"] == ["bad", "good"]
    manifest["labels"] = ["good", "bad"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="the fingerprint doesn't fit"):
        read_manifest(folder)
