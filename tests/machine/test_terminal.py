"""Text of others on a terminal."""

import io

import pytest

from tests.prepared import prepare, write_jsonl
from trainer.errors import InputError
from trainer.machine.terminal import one_line, safe
from trainer.verbs.data import main

EVIL = "a\x1b[31m\x1b]0;title\x07 \x9b2J \u202egpj \r\b\x7f \udcff\u2066"


def test_what_would_steer_a_terminal_is_escaped():
    shown = safe(EVIL)
    assert shown == r"a\x1b[31m\x1b]0;title\x07 \x9b2J \u202egpj \r\x08\x7f \udcff\u2066"
    assert shown.encode().isascii()


@pytest.mark.parametrize("text", ["lines\n\tand tabs", "中文 é 😀👩\u200d👧", "עברית العربية", "\\x1b", ""])
def test_other_text_is_shown_as_it_is(text):
    assert safe(text) == text


def test_windows_line_ends_are_lines_and_a_name_is_one_line():
    assert safe("a\r\nb") == "a\nb"
    assert one_line("a\r\nb\tc\x1b") == r"a\r\nb\tc\x1b"


def test_documents_and_their_names_are_shown_escaped(tmp_path, capsys):
    path = write_jsonl(tmp_path / "evil.jsonl", [f"text {EVIL[:30]}"])
    main(["show", str(prepare(path, tmp_path / "out") / "train")])
    shown = capsys.readouterr().out
    assert r"text a\x1b[31m" in shown
    assert not set(shown) & set("\x1b\x07\x9b\u202e")


def test_errors_are_shown_escaped(capsys):
    from launch import failure

    failure.of_exception(InputError(f"{EVIL}: broken")).show()
    assert capsys.readouterr().err.startswith(r"banyan: a\x1b[31m")


def test_generated_text_is_escaped_on_a_terminal_and_raw_in_a_pipe():
    from trainer.verbs.generate import write_stream

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for out, shown in ((Terminal(), "a\\x1b[31m\n"), (io.StringIO(), "a\x1b[31m\n")):
        write_stream(["a\x1b", "[31m"], out)
        assert out.getvalue() == shown
