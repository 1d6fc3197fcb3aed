"""Training, loading and encoding."""

import json
import os

import pytest

from tests.corpus import make_tokenizer, write_texts
from trainer.data.tokens import tokenizer as module
from trainer.data.tokens.tokenizer import END_OF_TEXT, copy_tokenizer, load_tokenizer, tokenizer_sha256, train_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.machine.sealing.plaintext import plaintext_sha256

TEXTS = [text.encode() for text in write_texts(50)]


@pytest.fixture(scope="module")
def trained():
    return make_tokenizer()


def test_training_depends_on_the_texts_not_on_their_order(trained):
    texts = [text.encode() for text in write_texts(200, seed=99)]
    assert train_tokenizer(reversed(texts), vocab_size=300, name="again").sha256 == trained.sha256


def test_vocabulary_smaller_than_the_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size=256: at least 257"):
        train_tokenizer(TEXTS, vocab_size=256, name="small")


def test_saved_tokenizer_loads_here_and_in_transformers(trained, tmp_path):
    from transformers import AutoTokenizer

    trained.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.sha256, loaded.end_of_text_id) == ("words", trained.sha256, 0)
    assert plaintext_sha256(tmp_path / "tokenizer.json") == trained.sha256
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == 0
    assert theirs("the tree grows").input_ids == trained.encode("the tree grows")


def renamed(trained, old, new):
    content = json.loads(trained.content)
    content["added_tokens"] = [{**content["added_tokens"][0], "content": new}]
    content["model"]["vocab"][new] = content["model"]["vocab"].pop(old)
    return json.dumps(content)


def test_end_of_text_is_found_by_name_configuration_or_key(trained, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(renamed(trained, END_OF_TEXT, "</s>"))
    assert load_tokenizer(file).end_of_text == "</s>"
    file.write_text(renamed(trained, END_OF_TEXT, "[STOP]"))
    with pytest.raises(InputError) as error:
        load_tokenizer(file)
    assert "data.tokenizer.end_of_text" in str(error.value)
    assert "\n" not in str(error.value)
    assert load_tokenizer(file, "[STOP]").end_of_text_id == 0
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "[STOP]"}}))
    assert load_tokenizer(tmp_path).end_of_text == "[STOP]"


def test_end_of_text_that_the_vocabulary_lacks_is_refused(trained, tmp_path):
    trained.save(tmp_path)
    with pytest.raises(InputError, match=r"data\.tokenizer\.end_of_text=<end> is not in its vocabulary"):
        load_tokenizer(tmp_path, "<end>")


def test_truncation_and_padding_of_a_loaded_tokenizer_are_switched_off(trained, tmp_path):
    engine = make_tokenizer().engine
    engine.enable_truncation(5)
    engine.enable_padding(length=40)
    engine.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("x" * 100) == trained.encode("x" * 100)
    assert loaded.encode("x") == trained.encode("x")


@pytest.mark.parametrize("content", ["", "{}", "garbage"])
def test_broken_tokenizer_is_refused_by_name(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_tokenizer_is_refused_by_key(tmp_path):
    with pytest.raises(InputError, match=r"data\.tokenizer\.path=.*no tokenizer\.json"):
        load_tokenizer(tmp_path / "gpt2")


def changed(trained, **fields):
    """tokenizer.json with other fields; those of `model` are merged into it."""
    content = json.loads(trained.content)
    model = {**content["model"], **fields.pop("model", {})}
    return json.dumps({**content, "model": model, **fields})


def in_sequence(kind, step, times):
    return {"type": "Sequence", kind: [step] * times}


DOUBLE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
ADDED = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
HOSTILE = {
    "no model": lambda t: json.dumps({"added_tokens": []}),
    "no object": lambda t: "[1]",
    "deep": lambda t: "[" * 100_000,
    "no vocabulary": lambda t: changed(t, model={"vocab": {}, "merges": []}, added_tokens=[]),
    "huge id": lambda t: changed(t, model={"vocab": {"x": 2**32 - 6}, "merges": []}),
    "huge added id": lambda t: changed(t, added_tokens=[{"id": 2**32 - 1, "content": "<x>", **ADDED}]),
    "negative id": lambda t: changed(t, model={"vocab": {"x": -1}, "merges": []}),
    "id with a point": lambda t: changed(t, model={"vocab": {"x": 1.5}, "merges": []}),
    "gap": lambda t: changed(t, model={"vocab": {"x": 0, "y": 900_000}, "merges": []}),
    "merge of nothing": lambda t: changed(t, model={"merges": ["q\u00b6 zz"]}),
    "added tokens of another kind": lambda t: changed(t, added_tokens=[None]),
    "unknown pre-tokenizer": lambda t: changed(t, pre_tokenizer={"type": "Evil"}),
    "panic at loading": lambda t: changed(t, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "panic at encoding": lambda t: changed(t, pre_tokenizer={"type": "FixedLength", "length": 0}),
    "swelling normaliser": lambda t: changed(t, normalizer=in_sequence("normalizers", DOUBLE, 40)),
    "swelling decoder": lambda t: changed(t, decoder=in_sequence("decoders", DOUBLE, 40)),
    "long replacement": lambda t: changed(t, normalizer={**DOUBLE, "content": "b" * 10**6}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_tokenizer_is_one_line(kind, trained, tmp_path, capfd):
    (tmp_path / "tokenizer.json").write_text(HOSTILE[kind](trained))
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path / "tokenizer.json") in str(error.value)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_a_file_too_large_for_a_tokenizer_is_refused_unread(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(InputError, match="no tokenizer is larger"):
        load_tokenizer(tmp_path)


def test_a_regular_expression_that_gives_up_on_a_text_is_one_line(trained, tmp_path, capfd):
    split = {"type": "Split", "pattern": {"Regex": r"(a+)+$"}, "behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(changed(trained, pre_tokenizer=split))
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(InputError, match="fails on a text that begins 'aaaa"):
        tokenizer.encode_pieces(b"a" * 40 + b"!")
    assert capfd.readouterr().err == ""


def test_dropout_of_a_loaded_tokenizer_is_switched_off(trained, tmp_path):
    (tmp_path / "tokenizer.json").write_text(changed(trained, model={"dropout": 0.9}))
    assert load_tokenizer(tmp_path).encode("the tree grows") == trained.encode("the tree grows")


def test_known_files_of_a_tokenizer_are_copied_and_no_others(trained, tmp_path):
    source = tmp_path / "source"
    trained.save(source)
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "other.py").write_text("print()")
    (source / "passwd").symlink_to("/etc/passwd")
    (source / "folder").mkdir()
    module.copy_tokenizer(source, tmp_path / "target")
    copied = {path.name for path in (tmp_path / "target").iterdir()}
    assert copied == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.parametrize("target", ["/etc/passwd", "../secret", "/dev/zero", "gone"])
def test_a_link_that_leaves_a_tokenizer_folder_is_not_followed(name, target, trained, tmp_path):
    source = tmp_path / "source"
    trained.save(source)
    (tmp_path / "secret").write_text("mine")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(target)
    with pytest.raises(InputError, match=f"{name}: a link that leaves"):
        module.copy_tokenizer(source, tmp_path / "target")
    assert not (tmp_path / "target" / name).exists()


def test_a_copied_tokenizer_replaces_links_and_writes_through_none(tmp_path):
    make_tokenizer().save(tmp_path / "theirs")
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "tokenizer.json").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").write_text("precious")
    copy_tokenizer(tmp_path / "theirs", tmp_path / "ours")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "ours" / "tokenizer.json").is_symlink()


def test_a_tokenizer_of_a_terabyte_is_not_hashed(tmp_path):
    (tmp_path / "tokenizer.json").touch()
    os.truncate(tmp_path / "tokenizer.json", 2**40)
    with pytest.raises(InputError, match="no tokenizer is larger"):
        tokenizer_sha256(tmp_path / "tokenizer.json")
