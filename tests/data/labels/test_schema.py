"""Schemas of annotated data: what is refused, by line and field."""

import gzip
import json

import pytest

from trainer.data.labels.records import read_labels
from trainer.data.labels.schema import Schema
from trainer.errors import InputError


def read(path, records, *, kind=None, names=None, **schema):
    lines = [record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = names or {}
    return read_labels(path, kind, names, lambda found: Schema(found, names=names, **schema))


GOOD = {
    "classification": {"text": "好", "label": "正面"},
    "tags": {"tokens": ["Ada", "wrote"], "tags": ["B-PER", "O"]},
    "dialogues": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "preferences": {"prompt": "p", "chosen": "a", "rejected": "b"},
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_record_of_each_kind_is_known_by_its_fields(tmp_path, kind):
    found = read(tmp_path / "a.jsonl", [GOOD[kind]])
    assert (found.schema.kind, found.problems, len(found.annotations)) == (kind, [], 1)


@pytest.mark.parametrize(
    ("kind", "changed", "problem"),
    [
        ("classification", {"label": None}, "field label: null is no label"),
        ("classification", {"label": ["a"]}, "field label: a list is no label"),
        ("classification", {"text": " "}, 'field text: " " where a text belongs'),
        ("classification", {"id": {}}, "field id: an object is neither"),
        ("classification", {"annotations": {"anna": "x", "ben": []}}, "field annotations.ben: a list is no label"),
        ("tags", {"tags": ["O"]}, "field tags: 1 of them for 2 tokens"),
        ("tags", {"tokens": "Ada"}, 'field tokens: "Ada" where a list'),
        ("tags", {"tokens": ["Ada", 3]}, "field tokens[1]: 3 is no token"),
        ("dialogues", {"messages": [{"role": "user", "content": "hi"}]}, "field messages: no message is by the"),
        ("dialogues", {"messages": [{"role": "human", "content": "hi"}]}, 'field messages[0].role: "human" isn'),
        ("dialogues", {"messages": [{"role": "user"}]}, "field messages[0].content: is missing"),
        ("preferences", {"rejected": "a"}, "field rejected: the same as what was chosen"),
        ("preferences", {"chosen": 3}, "field chosen: 3 where a text belongs"),
    ],
)
def test_a_record_that_is_not_as_the_schema_says_is_named_with_its_field(tmp_path, kind, changed, problem):
    found = read(tmp_path / "a.jsonl", [GOOD[kind], GOOD[kind] | changed], kind=kind)
    assert [str(each).startswith(f"line 2, {problem}") for each in found.problems] == [True], found.problems


def test_labels_outside_the_schema_broken_lines_and_missing_fields_are_problems(tmp_path):
    records = [{"text": "a", "label": "pos"}, {"text": "b", "label": "其他"}, {"text": "c"}, "no json", "[1]"]
    found = read(tmp_path / "a.jsonl", records, labels=("pos", "neg"))
    said = [str(problem) for problem in found.problems]
    assert said[0] == 'line 2, field label: "其他" isn\'t one of pos, neg'
    assert said[1] == "line 3, field label: is missing"
    assert said[2].startswith("line 4: not JSON")
    assert said[3].startswith("line 5: a list where an object")


def test_bio_tags_must_begin_before_they_go_on(tmp_path):
    tokens = ["a", "b", "c"]
    records = [
        {"tokens": tokens, "tags": tags} for tags in (["B-P", "I-P", "O"], ["O", "I-P", "O"], ["B-P", "I-Q", "O"])
    ]
    records += [{"tokens": [*tokens, "d"], "tags": ["B-X", "O", "O", "O"]}, {"tokens": ["z"], "tags": ["P"]}]
    found = read(tmp_path / "a.jsonl", records, scheme="bio", labels=("P", "Q"))
    assert [(each.line, each.field) for each in found.problems if each.line > 1] == [
        (2, "tags[1]"),
        (3, "tags[1]"),
        (4, "tags[0]"),
        (5, "tags[0]"),
    ]


def test_an_id_stands_for_one_content_and_an_annotator_says_one_thing_of_it(tmp_path):
    records = [
        {"id": 1, "text": "a", "label": "x", "annotator": "anna"},
        {"id": 1, "text": "b", "label": "x", "annotator": "ben"},
        {"id": 1, "text": "a", "label": "y", "annotator": "anna"},
        {"text": "c", "label": "x"},
        {"text": "c", "label": "x"},
        {"text": "c", "label": "y"},
    ]
    found = read(tmp_path / "a.jsonl", records)
    assert [(each.line, each.field) for each in found.problems] == [(2, "id"), (3, "annotator"), (6, "label")]
    assert found.repeated == 1


def test_other_names_tables_and_packed_files_are_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review,stars\n好,5\nbad,1\n\n,2\n", encoding="utf-8")
    names = {"text": "review", "label": "stars"}
    found = read_labels(path, None, names, lambda kind: Schema(kind, names=names))
    assert found.label_counts == {"5": 1, "1": 1}
    assert [(each.line, each.field) for each in found.problems] == [(5, "review")]
    packed = tmp_path / "b.jsonl.gz"
    packed.write_bytes(gzip.compress(json.dumps(GOOD["tags"]).encode()))
    assert read_labels(packed, None, {}, lambda kind: Schema(kind)).records == 1


@pytest.mark.parametrize(
    ("content", "said"), [("", "holds no record"), ('{"a": 1}', "no kind of labels has"), ("[", "not JSON")]
)
def test_a_file_that_is_no_annotated_data_is_refused(tmp_path, content, said):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=said):
        read_labels(path, None, {}, lambda kind: Schema(kind))
    with pytest.raises(InputError, match="can't be read"):
        read_labels(tmp_path / "missing.jsonl", None, {}, lambda kind: Schema(kind))
