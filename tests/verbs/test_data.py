"""`banyan data`: verify, index, show, stats."""

import shutil

import pytest

from tests.corpus import write_texts
from trainer.errors import ConfigError, InputError
from trainer.verbs.data import main


@pytest.fixture
def output(corpus, tmp_path):
    """A copy to break."""
    return shutil.copytree(corpus, tmp_path / "out")


def test_verify_says_ok_with_counts(output, capsys):
    assert main(["verify", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [": OK, 60 documents" in lines[0], ": OK, 12 documents" in lines[1]] == [True, True]


def test_verify_prints_a_line_per_problem_and_fails(output, capsys):
    shard = output / "train" / "shard-000001.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (output / "train" / "shard-000002.tar").unlink()
    assert main(["verify", str(output)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == [str(shard), str(output / "train" / "shard-000002.tar")]


def test_index_restores_what_is_missing_or_wrong(output, capsys):
    first = output / "train" / "shard-000000.index"
    intact = first.read_bytes()
    first.write_bytes(b"garbage")
    (output / "train" / "shard-000001.index").unlink()
    assert main(["index", str(output / "train")]) == 0
    assert first.read_bytes() == intact
    assert main(["verify", str(output)]) == 0


def test_show_prints_documents(output, capsys):
    assert main(["show", str(output / "train"), "2"]) == 0
    text = capsys.readouterr().out
    assert text.count("--- texts.jsonl, record") == 2
    assert write_texts(60)[0][:100] in text


def test_stats_counts_rows_and_tails(output, capsys):
    assert main(["stats", str(output / "train"), "64"]) == 0
    text = capsys.readouterr().out
    assert "L=64" in text
    assert "60 documents" in text
    assert "fingerprint" in text


@pytest.mark.parametrize("arguments", [[], ["tidy"], ["verify"], ["show", "DIR", "x"], ["stats"], ["verify", "a", "b"]])
def test_wrong_usage_is_one_line(arguments):
    with pytest.raises(ConfigError) as error:
        main(arguments)
    assert "banyan data" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json: missing"):
        main(["verify", str(tmp_path)])
