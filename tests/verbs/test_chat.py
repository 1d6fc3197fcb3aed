"""A chat, answered by the template of the tokenizer or a named one."""

import io
import json

import pytest

from tests.hf_folder import make_folder
from trainer.config import Chat
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.evaluate.sampling import Sampling
from trainer.run.speaker import open_speaker
from trainer.verbs.chat import main


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "small"
    make_folder(folder)
    return folder


def chat(folder, **changes):
    return Chat(path=str(folder), max_tokens=8, temperature=0.0, **changes)


def test_each_line_is_a_turn_and_answers_see_all_before(hf_folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("the tree?\n\nand the rain?\n"))
    assert main(chat(hf_folder, system="be short")) == 0
    speaker = open_speaker(Chat().run, Chat().checkpoint, str(hf_folder))
    how = Sampling(max_tokens=8, temperature=0.0)
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "the tree?"}]
    first = "".join(speaker.answer(messages, how))
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "and the rain?"}]
    second = "".join(speaker.answer(messages, how))
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_a_beginning_of_text_stands_once(tmp_path):
    """The tokenizer puts one before texts, the template writes one itself: ids are Hugging Face's for both."""
    from transformers import AutoTokenizer

    make_folder(tmp_path)
    path = tmp_path / "tokenizer.json"
    loaded = json.loads(path.read_text())
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    single = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
    loaded["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    path.write_text(json.dumps(loaded))
    template = tmp_path / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|endoftext|>"}))
    speaker, theirs = (
        open_speaker(Chat().run, Chat().checkpoint, str(tmp_path)),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    messages = [{"role": "user", "content": "the tree?"}]
    options = {"add_generation_prompt": True, "return_dict": False}
    assert speaker.chat_ids(messages) == theirs.apply_chat_template(messages, **options)
    assert speaker.chat_ids(messages)[:2].count(0) == 1
    assert speaker.prompt_ids("the tree") == theirs.encode("the tree")
    assert speaker.prompt_ids("") == [0]


def test_every_end_of_generation_config_ends_an_answer(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    speaker = open_speaker(Chat().run, Chat().checkpoint, str(tmp_path))
    assert speaker.ends == {0, 7}
    assert speaker.chat_ends == {0, 7, load_tokenizer(tmp_path).special_ids["<|im_end|>"]}


def test_a_template_is_needed_and_must_be_the_tokenizers(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="no chat template: give chat_template="):
        main(chat(tmp_path, prompt="a"))
    assert main(chat(tmp_path, prompt="a", chat_template="chatml")) == 0
    other = tmp_path / "other.jinja"
    other.write_text("<|turn|>{{ messages[0].content }}")
    with pytest.raises(ConfigError, match=r"writes <\|turn\|>, of which the tokenizer knows nothing"):
        main(chat(tmp_path, prompt="a", chat_template=str(other)))
