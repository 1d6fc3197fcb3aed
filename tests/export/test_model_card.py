"""The model card: fields only where they are known, nothing of others is markup, nothing made up."""

import dataclasses
import re

import pytest
import yaml

from trainer.config import Pretrain
from trainer.export.card_facts import DataFacts, RunFacts, SourceFacts, TaskResult
from trainer.export.formats import FORMATS
from trainer.export.model_card import LOADING, card_of_model, front_matter

HOSTILE = "evil\n---\nlicense: mit\n| <script>alert(1)</script> ` \u202e\x1b[31m [a](javascript:b)"
RESULT = TaskResult("arc_easy", "1", "acc_norm", 0.3251, 0.0123, (0.30, 0.35), 570)


def facts(**changes):
    """Of a run on one dataset from the Hub."""
    sources = [
        SourceFacts("hf://datasets/org/texts@main/data", "CC0-1.0", "en-GB", 3),
        SourceFacts("mine", None, "zh", 1),
    ]
    data = DataFacts("texts", 10, 1000, {"train/manifest.json": "ab" * 32}, sources)
    known = RunFacts(
        run=Pretrain(),
        step=20,
        tokens=40_960,
        parameters=4_000_000,
        device="cpu",
        world_size=2,
        packages={"torch": "2.13.0"},
        data=[data],
        losses=[("validation", 3.9194, 1.7524)],
        results=[RESULT],
    )
    return dataclasses.replace(known, **changes)


def card(of, **settings):
    return card_of_model(of, **{"name": "tiny", "form": "hf", "described": "step 20", "licence": None} | settings)


def front(text):
    """The front matter, as the Hub reads it."""
    begin, content, _ = text.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(content)


def test_the_front_matter_states_what_is_known_and_no_more():
    found = front(card(facts(), licence="apache-2.0"))
    assert found == {
        "license": "apache-2.0",
        "language": ["en", "zh"],
        "datasets": ["org/texts"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["banyan"],
        "metrics": ["accuracy"],
    }
    assert front_matter(facts(data=[], results=[]), form="gguf", licence=None).keys() == {
        "library_name",
        "pipeline_tag",
        "tags",
    }
    assert front(card(facts(), licence="My own, see LICENSE"))["license"] == "other"


def test_figures_sources_and_fingerprints_are_in_it():
    text = card(facts())
    for said in ("3.9194", "1.7524", "0.3251", "0.0123", "0.3000 to 0.3500", "ab" * 32, "CC0-1.0", "not stated"):
        assert said in text
    assert "| Steps | 20 |" in text
    assert "| Tokens | 40,960 |" in text
    assert "2 ranks on cpu" in text
    assert "| Energy | not measured |" in text
    assert "The licences of some of its sources aren't stated" in text


def test_what_was_not_measured_is_said_not_to_have_been():
    text = card(facts(losses=[], results=[], device=None, world_size=None, packages={}))
    assert "Of these weights: not measured." in text
    assert "| Hardware | not known |" in text
    gone = DataFacts("texts", 10, 1000, {}, None)
    assert "sources and licences aren't known" in card(facts(data=[gone]))
    assert "doesn't say what it was trained on" in card(facts(data=[]))


def test_nothing_of_others_is_markup_or_a_field():
    source = SourceFacts(HOSTILE, HOSTILE, HOSTILE, 1)
    data = DataFacts(HOSTILE, 1, 1, {HOSTILE: HOSTILE}, [source])
    results = [dataclasses.replace(RESULT, task=HOSTILE, metric=HOSTILE, version=HOSTILE)]
    of = facts(data=[data], losses=[(HOSTILE, 1.0, None)], results=results, device=HOSTILE, packages={HOSTILE: HOSTILE})
    of.run.model.init_from = HOSTILE
    text = card(of, name=HOSTILE, described=HOSTILE, licence=HOSTILE)
    found = front(text)
    assert found["license"] == "other"
    assert found["license_name"] == HOSTILE
    assert found.keys() == {"license", "license_name", "library_name", "pipeline_tag", "tags"}
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body
    assert "\x1b" not in body
    assert "\u202e" not in body
    assert "\n---\n" not in body
    assert "\nlicense" not in body
    assert "[a](" not in body
    assert not [line for line in body.splitlines() if line.startswith("|") and line.count("|") - line.count("\\|") > 8]


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_how_it_is_loaded(form):
    assert LOADING[form].replace("AUTO_CLASS", "AutoModelForCausalLM") in card(facts(), form=form)


@pytest.mark.parametrize(
    ("objective", "head", "auto_class", "pipeline"),
    [
        ("classify", "classify", "AutoModelForSequenceClassification", "text-classification"),
        ("reward", "classify", "AutoModelForSequenceClassification", "text-classification"),
        ("tag", "tag", "AutoModelForTokenClassification", "token-classification"),
        ("masked", "masked", "AutoModelForMaskedLM", "fill-mask"),
        ("dpo", "causal", "AutoModelForCausalLM", "text-generation"),
    ],
)
def test_of_other_objectives_it_has_their_class_and_measures_and_no_perplexity(objective, head, auto_class, pipeline):
    run = Pretrain()
    run.objective.name, run.model.head = objective, head
    text = card(facts(run=run, losses=[("validation", 0.25, None)], measures=[("validation", "accuracy", 0.75)]))
    assert front(text)["pipeline_tag"] == pipeline
    for said in (f"= {auto_class}.from_pretrained", f"| loss of {objective} | 0.2500 |", "| accuracy | 0.7500 |"):
        assert said in text
    assert not re.search("Perplexity|Nats per token", text)


def test_an_lstm_is_not_said_to_be_transformers():
    run = Pretrain()
    run.model.kind = "lstm"
    text = card(facts(run=run))
    assert "banyan generate path=DIR" in text
    assert "AutoModel" not in text


def test_an_export_of_a_folder_keeps_its_card_and_says_what_was_done(tmp_path):
    from tests.hf_folder import make_folder
    from trainer.config import Export
    from trainer.errors import InputError
    from trainer.verbs.export import main

    folder = tmp_path / "theirs"
    make_folder(folder)

    def exported(name, **settings):
        config = Export(path=str(folder), format="gguf")
        config.export.output = str(tmp_path / name)
        for key, value in settings.items():
            setattr(config.export, key, value)
        assert main(config) == 0
        return (tmp_path / name / "README.md").read_text()

    bare = exported("bare", licence="mit")
    assert front(bare) == {"license": "mit", "library_name": "gguf", "tags": ["banyan"]}
    assert "from the Hugging Face folder theirs. It has no card: data, training and results are not measured." in bare
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [small]\n---\n# Theirs\n\nIt knows trees.\n")
    kept = exported("kept")
    assert front(kept) == {"license": "apache-2.0", "tags": ["small", "banyan"], "library_name": "gguf"}
    assert "# Theirs\n\nIt knows trees.\n\n## This copy\n\nWritten by Banyan as gguf" in kept
    for content in ("---\na: [\n---\n", "---\n" + "[" * 5000 + "\n---\n"):
        (folder / "README.md").write_text(content)
        with pytest.raises(InputError, match=r"README.md: its front matter is no YAML"):
            exported("broken")
        assert not (tmp_path / "broken").exists()
