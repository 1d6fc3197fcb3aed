"""From chats to answers: prepared, fine-tuned at stage 3 on two ranks, asked, exported, and killed on the way."""

import json

import pytest
import torch

from tests.corpus import write_texts
from tests.prepared import prepare, write_jsonl
from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config, start_ranks
from tests.states import assert_equal_states
from trainer.config import Checkpoint, Evaluate, Export, ExportSettings, Finetune, Run, TokenizerSettings
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.evaluate.answers import read_questions
from trainer.evaluate.sampling import Sampling
from trainer.rules.finetune import check_finetune
from trainer.run.speaker import open_speaker
from trainer.verbs import export

FACTS = {"tree": "red", "stone": "quiet", "water": "under", "root": "many", "rain": "falls", "leaves": "trunks"}
LIKELIEST = Sampling(max_tokens=24, temperature=0.0)


def ask(thing):
    return [{"role": "user", "content": f"how is the {thing}"}]


def finetune(config):
    """The verb, imported on the rank."""
    from trainer.verbs.finetune import main

    return main(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of plain text, and chats of facts that it can't know, prepared with its tokenizer."""
    folder = tmp_path_factory.mktemp("finetune")
    text = prepare(write_jsonl(folder / "text.jsonl", write_texts(80)), folder / "text")
    base = small_config(text, folder / "base", train__steps=20)
    assert run_ranks(pretrain, base, 1) == [0]
    chats = folder / "chats.jsonl"
    records = [
        {"messages": [*ask(thing), {"role": "assistant", "content": f"the {thing} is {fact}"}]}
        for thing, fact in FACTS.items()
    ]
    chats.write_text("".join(json.dumps(record) + "\n" for record in records * 8))
    prepare(chats, folder / "chats", format="chat", deduplicate=False, tokenizer=TokenizerSettings(path=str(text)))
    return folder


def configure(folder, run_dir, **changes):
    settings = {
        "model__init_from": str(folder / "base"),
        "data__packing": "whole",
        "data__sequence_length": 64,
        "train__steps": 60,
        "optimizer__lr": 1e-2,
        "train__micro_batch_size": 2,
        **changes,
    }
    return small_config(folder / "chats", run_dir, **settings)


def answers(run_dir=None, path=None, template=None):
    run = Run(dir=None if run_dir is None else str(run_dir))
    speaker = open_speaker(run, Checkpoint(), path and str(path), chat_template=template and str(template))
    return {thing: "".join(speaker.answer(ask(thing), LIKELIEST)) for thing in FACTS}


EXACT = {thing: f"the {thing} is {fact}" for thing, fact in FACTS.items()}


def test_a_model_learns_exact_answers_and_gives_them_after_export_too(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    asked = {"evaluate__prompts": [ask(thing)[0]["content"] for thing in ("tree", "rain")], "evaluate__every": 60}
    asked |= {"evaluate__prompt_tokens": 12, "evaluate__at_start": True}
    config = configure(folder, tmp_path / "run", parallel__zero_stage=3, **asked)
    assert run_ranks(finetune, config, 2) == [0, 0]
    in_the_loop = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in in_the_loop] == [0, 0, 60, 60]
    expected = [f"{ask(thing)[0]['content']}\n→ {EXACT[thing]}" for thing in ("tree", "rain")]
    assert [row["text"] for row in in_the_loop[2:]] == expected
    assert not {row["text"] for row in in_the_loop[:2]} & set(expected)
    assert answers(run_dir=tmp_path / "run") == EXACT
    plain = tmp_path / "plain.jinja"  # the base knows none of ChatML's tokens
    plain.write_text("{% for message in messages %}{{ message.content }}\n{% endfor %}")
    assert not set(answers(run_dir=folder / "base", template=plain).values()) & set(EXACT.values())
    written = Export(export=ExportSettings(output=str(tmp_path / "hf")))
    written.run.dir = str(tmp_path / "run")
    assert export.main(written) == 0
    assert answers(path=tmp_path / "hf") == EXACT
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = tokenizer.apply_chat_template(ask("rain"), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    speaker = open_speaker(Run(dir=str(tmp_path / "run")), Checkpoint(), None)
    assert ids["input_ids"][0].tolist() == speaker.renderer.prompt_ids(ask("rain"))
    with torch.no_grad():
        assert (theirs(ids["input_ids"]).logits - speaker.model(ids["input_ids"])).abs().max() < 1e-4
    generated = theirs.generate(**ids, max_new_tokens=24, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(generated, skip_special_tokens=True) == EXACT["rain"]
    assert tokenizer.decode(generated).endswith("<|im_end|>")  # it stops there by itself


def test_killed_in_the_middle_of_a_packed_epoch_it_goes_on_to_the_bit(folder, tmp_path):
    changes = {"train__steps": 8, "checkpoint__every": 2, "parallel__zero_stage": 2}
    assert run_ranks(finetune, configure(folder, tmp_path / "whole", **changes), 2) == [0, 0]
    killed = configure(folder, tmp_path / "killed", **changes)
    ranks = start_ranks(finetune, killed, 2)
    ranks.kill_once_saved(tmp_path / "killed")
    assert run_ranks(finetune, killed, 2) == [0, 0]
    assert_equal_states(tmp_path / "whole", tmp_path / "killed")


def test_tokens_that_the_model_does_not_know_must_follow_those_that_it_does(folder, tmp_path):
    backwards = [text[::-1] for text in write_texts(60)]
    other = prepare(write_jsonl(tmp_path / "other.jsonl", backwards), tmp_path / "other")
    config = small_config(other, tmp_path / "run", model__init_from=str(folder / "base"), train__steps=2)
    codes, errors = fail_ranks(finetune, config)
    assert codes == [2]
    assert "another tokenizer" in errors[0]


def test_a_question_must_leave_room_for_an_answer_and_spell_no_special_token(folder):
    tokenizer = load_tokenizer(folder / "chats")
    long = Evaluate(prompts=["is it?", "how " * 40])
    assert len(read_questions(long, tokenizer, context_length=300).asked) == 2
    with pytest.raises(ConfigError, match=r"evaluate.prompts, number 2: \d+ tokens, of data.sequence_length=40"):
        read_questions(long, tokenizer, context_length=40)
    as_text = read_questions(Evaluate(prompts=["the tree"], as_chat=False), tokenizer, context_length=40)
    assert as_text.asked[0].ids == tokenizer.encode("the tree")
    with pytest.raises(ConfigError, match=r"evaluate.prompts, number 1: spells the special token <\|im_end\|>"):
        read_questions(Evaluate(prompts=["a<|im_end|>"]), tokenizer, context_length=40)


def test_without_a_model_there_is_nothing_to_adapt():
    config = Finetune()
    config.data.path, config.train.steps = "somewhere", 2
    with pytest.raises(ConfigError, match=r"model.init_from is not set"):
        check_finetune(config, 1)
