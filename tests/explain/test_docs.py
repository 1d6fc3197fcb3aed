"""The commands of docs/EXPLAIN.md, run as written on small models."""

import re
from pathlib import Path

import pytest

from launch.cli import main as banyan
from launch.overrides import VERBATIM
from tests.explain.encoder import make_encoder
from tests.hf_folder import make_folder

DOCS = Path(__file__).parents[2] / "docs" / "EXPLAIN.md"
COMMANDS = re.findall(r"^\$ banyan (explain .*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small models under the names of the page, and its file of pairs."""
    base = tmp_path_factory.mktemp("docs")
    make_folder(base / "SmolLM2-135M")
    (base / "all-MiniLM-L6-v2").mkdir()
    make_encoder(base / "all-MiniLM-L6-v2")
    pairs = re.findall(r'^\{"query".*\}$', DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    (base / "pairs.jsonl").write_text("\n".join(pairs))
    return base


def arguments(command):
    """As a shell splits them; a text of several of the small tokenizer's tokens is no target for it."""
    import shlex

    return [part.replace("target= Paris", "target=s") for part in shlex.split(command)]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_of_the_page_runs(folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    assert banyan(arguments(command)) == 0
    for output in re.findall(r"output=(\w+)", command):
        assert any((folder / output).iterdir())


def test_every_command_is_there_and_words_are_taken_to_the_letter():
    assert {command.split()[1] for command in COMMANDS} >= {"neighbours", "similarity", "retrieval"}
    assert {"prompt", "target", "word", "a", "b"} <= set(VERBATIM)


def test_a_command_that_is_not_there_is_refused(capsys):
    assert banyan(["explain", "neighbors", "word=x"]) == 2
    assert "neighbors" in capsys.readouterr().err
    assert banyan(["explain", "command=nothing", "path=x"]) == 2
    assert "command=nothing: not known; choose one of prompt, neighbours" in capsys.readouterr().err
