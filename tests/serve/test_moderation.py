"""Moderation: what is refused, where answers are cut, and that nothing objected to gets out however it is cut up."""

import random

import pytest

from trainer.config.guards import Guards
from trainer.errors import InputError
from trainer.serve.moderation import open_moderation

WORDS = ["grim", "Grey Mill", "毒药", "naïve bomb"]


@pytest.fixture(scope="module")
def moderation(tmp_path_factory):
    file = tmp_path_factory.mktemp("words") / "words.txt"
    file.write_text("\n".join(WORDS), encoding="utf-8")
    return open_moderation(Guards(moderation=[str(file)]))


def streamed(moderation, text, cut):
    """What is shown of an answer that comes in pieces, and whether it was cut."""
    guard, shown = moderation.begin(), ""
    for piece in cut(text):
        shown += guard.feed(piece)
    return shown + guard.finish(), guard.tripped


def by(count):
    return lambda text: [text[n : n + count] for n in range(0, len(text), count)]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("All is well, pilgrims say, and grimly so.", "All is well, pilgrims say, and grimly so."),
        ("It was a GRIM day", "It was a "),
        ("grim", ""),
        ("the grey mill, the grey millstone", "the "),
        ("the grey millstone is old", "the grey millstone is old"),
        ("水里有毒药吗", "水里有"),
        ("a Naïve Bomb", "a "),
        ("", ""),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_an_answer_ends_before_the_first_listed_word_however_it_comes(moderation, text, shown, count):
    assert streamed(moderation, text, by(count)) == (shown, shown != text)


def test_random_texts_are_cut_as_a_look_at_the_whole_would(moderation):
    draw = random.Random(0)
    letters = ["grim", "gri", "m", " ", "grey", "mill", "毒", "药", "bomb", "naïve", "x", ". "]
    for _ in range(300):
        text = "".join(draw.choices(letters, k=12))
        whole = streamed(moderation, text, lambda text: [text])
        assert streamed(moderation, text, by(draw.randint(1, 5))) == whole
        assert whole[1] == (moderation.refusal_of(text) is not None)


def test_a_refusal_names_no_word(moderation):
    assert moderation.refusal_of("What is grey?") is None
    assert moderation.refusal_of("Poison is 毒药.") == (
        "the prompt is refused by this server's moderation (a word of a list)."
    )


def test_text_flows_on_but_for_what_might_become_a_word(moderation):
    guard = moderation.begin()
    shown = "".join(guard.feed("word ") for _ in range(20))
    assert 100 - len(shown) == max(map(len, WORDS)) + 1


def test_it_is_off_by_default_and_says_what_is_wrong(tmp_path):
    assert open_moderation(Guards()) is None
    (tmp_path / "empty.txt").write_text("\n \n")
    for name, said in (("empty.txt", "lists nothing"), ("absent.txt", "can't be read")):
        with pytest.raises(InputError, match=rf"serve\.moderation: .*{name} .*{said}"):
            open_moderation(Guards(moderation=[str(tmp_path / name)]))
