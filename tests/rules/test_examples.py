"""What goes with examples, such as chats, and what is for text alone; data.format names either."""

import pytest

from trainer.config import Data, TextSource
from trainer.config.clean import Clean
from trainer.config.data import EXAMPLES, FORMATS
from trainer.config.modalities import Modality
from trainer.config.values import check_values
from trainer.data.examples.formats import READERS
from trainer.data.examples.segments import SEGMENTS
from trainer.data.text import formats
from trainer.errors import ConfigError
from trainer.rules.examples import check_examples
from trainer.rules.sources import inputs_of


def data_of(kind, **settings):
    """Data of a kind of examples, with what that can't be without."""
    return Data(input=["a"], format=kind, modalities={"audio": Modality(8)} if kind == SEGMENTS else {}, **settings)


def refusal(check, data):
    with pytest.raises(ConfigError) as error:
        check(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_one_key_names_formats_of_files_and_kinds_of_examples():
    assert FORMATS == formats.FORMATS
    assert set(EXAMPLES) == READERS.keys() | {SEGMENTS}
    assert not set(FORMATS) & set(EXAMPLES)
    for name in (None, *FORMATS, *EXAMPLES):
        data = data_of(name)
        check_values(data, "data.")
        check_examples(data)
        assert data.has_examples == (name in EXAMPLES)
    said = refusal(lambda data: check_values(data, "data."), Data(format="chats"))
    assert said.startswith("data.format=chats: not known; choose one of text, jsonl, ")


@pytest.mark.parametrize("kind", EXAMPLES)
@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"clean": Clean(stages=["gopher_quality"])}, "data.clean.stages"),
        ({"near_duplicates": True}, "data.near_duplicates=true"),
        ({"separator": r"\n\n"}, "data.separator"),
        ({"encoding": "gb18030"}, "data.encoding=gb18030"),
        ({"sources": {"books": TextSource(input=["b"], format="epub")}}, "data.sources.books.format=epub"),
    ],
)
def test_what_is_for_text_is_refused_with_examples(kind, setting, named):
    said = refusal(check_examples, data_of(kind, **setting))
    assert said.startswith(named)
    assert f"data.format={kind}" in said


def test_examples_are_not_mixed_with_text():
    data = Data(input=["a"], sources={"talk": TextSource(input=["b"], format="chat")})
    assert "data.sources.talk.format=chat: examples aren't mixed" in refusal(check_examples, data)


def test_sources_of_examples_may_each_name_their_field():
    sources = {"talk": TextSource(input=["b"], format="chat", text_field="turns")}
    data = Data(input=["a"], format="chat", sources=sources)
    check_examples(data)
    assert [(entry.reading.format, entry.reading.text_field) for entry in inputs_of(data)] == [
        ("records", "text"),
        ("records", "turns"),
    ]
