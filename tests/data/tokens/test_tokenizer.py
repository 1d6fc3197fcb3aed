"""Training, loading and encoding."""

import json

import pytest

from tests.corpus import make_tokenizer, write_texts
from trainer.data.tokens import tokenizer as module
from trainer.data.tokens.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer
from trainer.errors import ConfigError, InputError

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
    assert module.sha256_of(tmp_path / "tokenizer.json") == trained.sha256
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
