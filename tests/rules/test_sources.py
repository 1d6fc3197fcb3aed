"""What is known of sources: settings of their own, licences that aren't allowed, and what can't be honoured."""

import pytest

from launch.compose import compose
from trainer.config import Data, TextSource
from trainer.errors import ConfigError
from trainer.rules.sources import inputs_of, separator_of


def refusal(data):
    with pytest.raises(ConfigError) as error:
        inputs_of(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_source_has_settings_of_its_own_and_else_those_of_data():
    books = TextSource(input=["b/*.epub"], licence="CC0", format="epub")
    crawl = TextSource(input=["c.warc", "d.warc"], text_field="body", language="zh")
    inputs = inputs_of(Data(input=["a"], licence="MIT", encoding="auto", sources={"books": books, "crawl": crawl}))
    assert [(entry.given, entry.key, entry.licence) for entry in inputs] == [
        ("a", "data.input", "MIT"),
        ("b/*.epub", "data.sources.books.input", "CC0"),
        ("c.warc", "data.sources.crawl.input", "MIT"),
        ("d.warc", "data.sources.crawl.input", "MIT"),
    ]
    assert [entry.reading.format for entry in inputs] == [None, "epub", None, None]
    assert [entry.reading.text_field for entry in inputs] == ["text", "text", "body", "body"]
    assert {entry.reading.encoding for entry in inputs} == {"auto"}


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        (["CC-BY-NC*"], "data.sources.papers: its licence is CC-BY-NC-4.0"),
        (["cc-by-nc-4.0"], "data.sources.papers"),
        (["unknown"], "data.sources.web: its licence is unknown"),
        (["MIT"], "data.input: its licence is MIT"),
    ],
)
def test_a_licence_that_is_not_allowed_is_refused_with_its_source(refused, named):
    papers, web = TextSource(input=["p"], licence="CC-BY-NC-4.0"), TextSource(input=["w"], licence="")
    data = Data(input=["a"], licence="MIT", sources={"papers": papers, "web": web}, refuse_licences=refused)
    assert named in refusal(data)
    data.refuse_licences = ["GPL*"]
    assert len(inputs_of(data)) == 3


def test_an_encoding_or_source_that_is_none_is_refused():
    assert "data.encoding=klingon" in refusal(Data(input=["a"], encoding="klingon"))
    assert "data.separator" in refusal(Data(input=["a"], separator=""))
    assert "data.sources.x.input is empty" in refusal(Data(sources={"x": TextSource()}))
    for name in ("GB18030", "Big5", "UTF-16", "utf_8", "Shift_JIS", "euc_jp", "AUTO"):
        inputs_of(Data(input=["a"], encoding=name))


def test_a_separator_is_written_with_escapes():
    assert separator_of(r"\n\n\n") == b"\n\n\n"
    assert separator_of(r"<end>\t\\n") == b"<end>\t\\n"
    assert separator_of("文") == "文".encode()
    assert separator_of(None) == b""


@pytest.mark.parametrize("preset", ["common_crawl", "wikipedia", "fineweb"])
def test_presets_need_their_input_alone(preset):
    config = compose("prepare", [f"data={preset}", "data.input=some/where", "data.output=out"])
    (entry,) = inputs_of(config.data)
    assert (entry.given, config.data.name, bool(entry.licence)) == ("some/where", preset, True)


def test_sources_are_set_from_the_command_line():
    config = compose(
        "prepare",
        [
            "data.output=out",
            "data.sources.books.input=books,more",
            "data.sources.books.licence=CC0",
            "data.sources.web.input=s3://bucket/{00..03,10}.jsonl",
            r"data.separator=\n\n",
        ],
    )
    assert [entry.given for entry in inputs_of(config.data)] == ["books", "more", "s3://bucket/{00..03,10}.jsonl"]
    assert inputs_of(config.data)[0].reading.separator == b"\n\n"
