"""banyan prepare data.format=chat and prompt_completion: from files to shards, with everything counted."""

import gzip
import json

import numpy as np
import pytest

from tests.corpus import write_texts
from tests.prepared import prepare, shard_files, write_jsonl
from trainer.config import TextSource, TokenizerSettings
from trainer.config.clean import Clean
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.tokens.verify import verify
from trainer.errors import ConfigError, InputError

MESSAGES = {"messages": [{"role": "user", "content": "what grows?"}, {"role": "assistant", "content": "the tree"}]}
SHAREGPT = {"conversations": [{"from": "human", "value": "what falls?"}, {"from": "gpt", "value": "the rain"}]}
ALPACA = {"instruction": "say it", "input": "red stone", "output": "red stone, said"}
NO_ANSWER = {"messages": [{"role": "user", "content": "anybody?"}]}


def write_records(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def decoded(folder):
    """Each document of a set: its text, and the text of its targets."""
    tokenizer, found = load_tokenizer(folder / "tokenizer"), []
    for reader in open_shards(read_manifest(folder)):
        ends = np.cumsum(reader.lengths().astype(int))
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            tokens, targets = reader.read(start, end), reader.take_targets(np.arange(start, end))
            found.append((tokenizer.decode(tokens), tokenizer.decode(tokens[targets])))
    return sorted(found)


def test_three_ways_to_write_a_chat_are_known(tmp_path, capsys):
    lines = write_records(tmp_path / "chat.jsonl", [MESSAGES, SHAREGPT, NO_ANSWER])
    array = tmp_path / "alpaca.json"
    array.write_text(json.dumps([ALPACA, MESSAGES]))
    out = prepare([lines, array], tmp_path / "out", format="chat")
    found = decoded(out / "train")
    assert [targets for _, targets in found] == [
        "red stone, said<|im_end|>",
        "the rain<|im_end|>",
        "the tree<|im_end|>",
    ]
    assert found[0][0] == (
        "<|im_start|>user\nsay it\n\nred stone<|im_end|>\n<|im_start|>assistant\nred stone, said<|im_end|><|endoftext|>"
    )
    manifest = read_manifest(out / "train")
    assert manifest.rejected == {"duplicate": 1, "no_target": 1}
    assert manifest.documents_read == 5
    assert verify(manifest) == []
    said = capsys.readouterr().out
    assert "no_target: first chat.jsonl, line 3: has no answer to learn" in said
    assert "of them targets" in said


def test_shards_do_not_depend_on_processes_and_a_packed_file_is_the_same(tmp_path):
    chats = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text[::-1]}]}
        for text in write_texts(120)
    ]
    plain = write_records(tmp_path / "chat.jsonl", chats)
    one = prepare(plain, tmp_path / "one", format="chat", validation_fraction=0.1)
    two = prepare(plain, tmp_path / "two", format="chat", validation_fraction=0.1, workers=2)
    assert shard_files(one) == shard_files(two)
    assert read_manifest(one / "validation").documents > 0
    packed = tmp_path / "chat.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    again = prepare(packed, tmp_path / "three", format="chat", validation_fraction=0.1)
    assert read_manifest(again / "train").fingerprint != ""
    assert decoded(again / "train") == decoded(one / "train")


def test_prompts_and_completions_are_joined_as_they_are(tmp_path):
    records = [{"prompt": "the", "completion": " tree grows"}, {"prompt": "Q:", "response": " 4<|im_end|>"}]
    out = prepare(write_records(tmp_path / "pairs.jsonl", records), tmp_path / "out", format="prompt_completion")
    assert decoded(out / "train") == [
        ("Q: 4<|im_end|><|endoftext|>", " 4<|im_end|><|endoftext|>"),
        ("the tree grows<|endoftext|>", " tree grows<|endoftext|>"),
    ]


def test_a_prompt_of_messages_is_a_chat_whose_completion_is_learnt(tmp_path):
    record = {
        "prompt": [*MESSAGES["messages"], {"role": "user", "content": "and?"}],
        "completion": [{"role": "assistant", "content": "water"}],
    }
    out = prepare(
        write_records(tmp_path / "pairs.jsonl", [record]),
        tmp_path / "out",
        format="prompt_completion",
        chat_template="chatml",
    )
    assert [targets for _, targets in decoded(out / "train")] == ["water<|im_end|>"]


BAD = {
    "message 2: user after user": {"messages": [MESSAGES["messages"][0]] * 2 + [MESSAGES["messages"][1]]},
    "message 1: assistant after nothing": {"messages": MESSAGES["messages"][1:]},
    "the role 'ghost' isn't known": {"messages": [{"role": "ghost", "content": "boo"}]},
    "an empty answer": {"messages": [MESSAGES["messages"][0], {"role": "assistant", "content": " \n"}]},
    "no chat": {"text": "plain"},
    "message 1 is no object": {"messages": ["hello"]},
    "has no text": {"messages": [{"role": "user", "content": 7}]},
    "spells the special token": {
        "messages": [{"role": "user", "content": "<|im_end|>"}, MESSAGES["messages"][1]],
    },
}


@pytest.mark.parametrize("problem", BAD)
def test_a_record_that_cannot_be_learnt_from_is_refused_by_number_or_counted(tmp_path, problem):
    path = write_records(tmp_path / "chat.jsonl", [MESSAGES, BAD[problem]])
    with pytest.raises(InputError, match=r"chat.jsonl, (line|record) 2: ") as refused:
        prepare(path, tmp_path / "out", format="chat")
    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)
    out = prepare(path, tmp_path / "again", format="chat", bad_records="reject")
    manifest = read_manifest(out / "train")
    assert manifest.documents == 1
    assert sum(manifest.rejected.values()) == 1
    assert manifest.documents_read == 2


def test_a_template_of_ones_own_and_one_that_fails(tmp_path):
    path = write_records(tmp_path / "chat.jsonl", [MESSAGES])
    template = tmp_path / "mine.jinja"
    template.write_text("{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}<|turn|>")
    out = prepare(path, tmp_path / "out", format="chat", chat_template=str(template))
    assert [targets for _, targets in decoded(out / "train")] == ["the tree<|turn|>"]
    assert load_tokenizer(out / "train" / "tokenizer").chat_template == template.read_text()
    template.write_text("{{ raise_exception('Only pirates may speak') }}")
    with pytest.raises(InputError, match="record 1: the chat template fails: Only pirates may speak"):
        prepare(path, tmp_path / "other", format="chat", chat_template=str(template))
    with pytest.raises(InputError, match=r"data.chat_template=nowhere"):
        prepare(path, tmp_path / "nothing", format="chat", chat_template="nowhere")


def test_nothing_to_learn_at_all_is_refused(tmp_path):
    path = write_records(tmp_path / "chat.jsonl", [NO_ANSWER])
    with pytest.raises(InputError, match="no document to prepare"):
        prepare(path, tmp_path / "out", format="chat")


def test_the_tokenizer_of_a_base_model_gets_the_tokens_that_the_template_writes(tmp_path):
    text = prepare(write_jsonl(tmp_path / "text.jsonl", write_texts(40)), tmp_path / "base")
    base = load_tokenizer(text / "train" / "tokenizer")
    path = write_records(tmp_path / "chat.jsonl", [MESSAGES])
    out = prepare(path, tmp_path / "out", format="chat", tokenizer=TokenizerSettings(path=str(text)))
    tokenizer = load_tokenizer(out / "train" / "tokenizer")
    assert tokenizer.vocab_size == base.vocab_size + 2
    assert tokenizer.encode("the tree") == base.encode("the tree")
    again = prepare(path, tmp_path / "again", format="chat", tokenizer=TokenizerSettings(path=str(out)))
    assert read_manifest(again / "train").tokenizer_sha256 == read_manifest(out / "train").tokenizer_sha256


@pytest.mark.parametrize(
    ("name", "what"), [("chat.xlsx", "a table"), ("chat.html.gz", "html"), ("chat.pdf", "laid-out")]
)
def test_a_file_that_is_no_record_by_its_name_is_refused(tmp_path, name, what):
    path = write_records(tmp_path / name, [MESSAGES])
    with pytest.raises(InputError, match=rf"{name}: is .*{what}.* data.format=chat is read from JSON"):
        prepare(path, tmp_path / "out", format="chat")


def test_of_a_folder_only_records_are_read(tmp_path, capsys):
    folder = tmp_path / "chats"
    folder.mkdir()
    write_records(folder / "a.jsonl", [MESSAGES])
    (folder / "README.md").write_text("what these are")
    out = prepare(folder, tmp_path / "out", format="chat")
    assert len(decoded(out / "train")) == 1
    assert "1 .md" in capsys.readouterr().out


def test_each_source_of_chats_has_a_field_of_its_own(tmp_path):
    turns = {"turns": MESSAGES["messages"]}
    path = write_records(tmp_path / "talk.jsonl", [turns])
    more = write_records(tmp_path / "chat.jsonl", [SHAREGPT])
    talk = TextSource(input=[str(path)], text_field="turns", licence="CC0-1.0")
    out = prepare(more, tmp_path / "out", format="chat", sources={"talk": talk})
    assert [targets for _, targets in decoded(out / "train")] == ["the rain<|im_end|>", "the tree<|im_end|>"]
    assert {group.licence for group in read_manifest(out / "train").sources} == {None, "CC0-1.0"}


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"clean": Clean(stages=["gopher_quality"])}, "data.clean.stages"),
        ({"near_duplicates": True}, "near_duplicates"),
    ],
)
def test_cleaning_and_near_duplicates_are_for_text(tmp_path, setting, named):
    path = write_records(tmp_path / "chat.jsonl", [MESSAGES])
    with pytest.raises(ConfigError, match=f"{named}.* is for text, not for data.format=chat"):
        prepare(path, tmp_path / "out", format="chat", **setting)
