"""What files of others name is in their folder, or refused."""

from pathlib import Path

import pytest

from trainer.errors import InputError
from trainer.machine.bare_name import bare_name

SOURCE = Path("folder/index.json")


@pytest.mark.parametrize("name", ["a", "model-00001-of-00002.safetensors", "…", ".hidden", "..a", "a b", "ä" * 127])
def test_a_name_in_the_folder_is_itself(name: str) -> None:
    assert bare_name(name, SOURCE) == name


@pytest.mark.parametrize(
    "name",
    [
        *[
            "",
            ".",
            "..",
            "../a",
            "/a",
            "a/b",
            "a/",
            "/",
            "..\\a",
            "C:\\a",
            "a\0b",
            "a\nb",
            "\x1b[2J",
            "\ud800",
            "\u202e",
        ],
        *["ä" * 128, "x" * 10**6, None, 0, True, 1.5, b"a", ["a"], {"a": 1}, ("a",)],
    ],
)
def test_what_is_no_bare_name_is_refused_in_a_short_line_of_ascii(name: object) -> None:
    with pytest.raises(InputError, match=r"^folder/index.json: ") as refused:
        bare_name(name, SOURCE)
    line = str(refused.value)
    assert len(line) < 200
    assert line.replace("…", "").isascii()
    assert line.isprintable()
