"""A file of prompts is answered whole: in order, none lost or twice, on any ranks, and after kill -9."""

import json
import time

import pytest
import torch

from tests.hf_folder import make_folder
from tests.hugging_face import load_model
from tests.run_ranks import run_ranks, start_ranks
from trainer.config import Generate
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.evaluate.batch_sampling import Continuation, continue_together
from trainer.evaluate.folder_model import load_folder
from trainer.evaluate.sampling import Sampling, generate_tokens
from trainer.verbs.generate import main

TEXTS = ["the tree", "", "every root finds", "rain", "the river and the rain fall on every root that it finds"]
CHAT = {"messages": [{"role": "user", "content": "the tree?"}], "id": "chat"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers") / "hf"
    make_folder(folder)
    return folder


def write_prompts(path, count=12):
    records = [{"prompt": f"{TEXTS[number % len(TEXTS)]} {number}", "id": number} for number in range(count)]
    path.write_text("\n".join(map(json.dumps, [*records, CHAT])) + "\n")
    return path


def verb(folder, tmp_path, **changes):
    config = Generate(
        path=str(folder),
        prompts=str(tmp_path / "prompts.jsonl"),
        output=str(tmp_path / "answers.jsonl"),
        max_tokens=12,
        temperature=0.0,
        batch_size=4,
    )
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def answers(tmp_path):
    return [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("hf_code", [False, True])
@pytest.mark.parametrize("context_length", [9, 64])
def test_prompts_continued_together_are_continued_as_each_alone(folder, context_length, hf_code, monkeypatch):
    if hf_code:
        monkeypatch.setattr("trainer.evaluate.folder_model.read_architecture", _refuse)
    model = load_folder(folder, torch.device("cpu"))
    tokenizer = load_tokenizer(folder)
    end = tokenizer.end_of_text_id
    samplings = [Sampling(max_tokens=count, temperature=0.7, seed=count) for count in (20, 3, 9, 14, 20)]
    rows = [
        Continuation(tokenizer.encode(text) or [end], {end}, how) for text, how in zip(TEXTS, samplings, strict=True)
    ]
    continue_together(model, rows, context_length=context_length)
    for text, row in zip(TEXTS, rows, strict=True):
        ids = tokenizer.encode(text) or [end]
        alone = generate_tokens(model, ids, row.sampling, context_length=context_length, end_of_text=end)
        assert row.tokens == list(alone), text


def _refuse(*_):
    raise InputError("not ours")


@torch.no_grad()
def test_answers_are_those_of_hugging_face_ids_and_all(folder, tmp_path):
    from transformers import AutoTokenizer

    write_prompts(tmp_path / "prompts.jsonl")
    assert main(verb(folder, tmp_path)) == 0
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    for record in answers(tmp_path):
        if "prompt" in record:
            ids = tokenizer(record["prompt"], return_tensors="pt").input_ids
        else:
            options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": False}
            ids = tokenizer.apply_chat_template(record["messages"], **options)
        ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
        ends = ends if "messages" in record else ends[:1]
        new = model.generate(ids, max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=0)[
            0, ids.shape[1] :
        ]
        ended = int(new[-1]) in ends
        assert record["answer"] == tokenizer.decode(new[: len(new) - ended])
        assert (record["answer_tokens"], record["answer_ended"]) == (len(new) - ended, ended)


def test_the_same_answers_at_any_batch_and_ranks_in_the_order_of_the_prompts(folder, tmp_path):
    write_prompts(tmp_path / "prompts.jsonl")
    found = []
    for ranks, batch_size in ((1, 1), (1, 16), (2, 3)):
        config = verb(folder, tmp_path, batch_size=batch_size, temperature=0.9)
        assert (run_ranks(main, config, ranks) == [0] * ranks) if ranks > 1 else (main(config) == 0)
        found.append(answers(tmp_path))
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            *("answers.jsonl", "answers.jsonl.made.json", "prompts.jsonl"),
        ]
        (tmp_path / "answers.jsonl").unlink()
        (tmp_path / "answers.jsonl.made.json").unlink()
    assert found[0] == found[1] == found[2]
    assert [record["id"] for record in found[0]] == [*range(12), "chat"]


def test_killed_with_9_it_goes_on_and_no_prompt_is_lost_or_answered_twice(folder, tmp_path, monkeypatch, capsys):
    write_prompts(tmp_path / "prompts.jsonl", 40)
    config = verb(folder, tmp_path, max_tokens=60, batch_size=2)
    ranks = start_ranks(main, config, 1)
    deadline = time.monotonic() + 120
    while not _lines_in_parts(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.005)
    ranks.kill()
    there = _lines_in_parts(tmp_path)
    assert 0 < there < 41
    part = next((tmp_path / "answers.jsonl.parts").iterdir())
    part.write_bytes(part.read_bytes() + b'{"number": 3, "li')  # as if it had been killed in the middle of a line
    asked = []
    own = continue_together
    monkeypatch.setattr(
        "trainer.run.answer_file.continue_together",
        lambda model, rows, **options: (asked.extend(rows), own(model, rows, **options)),
    )
    assert main(config) == 0
    assert f"41 answers, {there} of them from before" in capsys.readouterr().out
    assert len(asked) == 41 - there
    found = answers(tmp_path)
    assert [record["id"] for record in found] == [*range(40), "chat"]
    for path in tmp_path.glob("answers.jsonl*"):
        path.unlink()
    assert main(config) == 0
    assert answers(tmp_path) == found
    assert main(config) == 0
    assert "41 answers, 41 of them from before" in capsys.readouterr().out


def _lines_in_parts(tmp_path):
    return sum(path.read_bytes().count(b"\n") for path in (tmp_path / "answers.jsonl.parts").glob("*.jsonl"))


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "record 2: is not JSON"),
        ("[1]", "record 2: is no JSON object"),
        ('{"text": "a"}', 'record 2: has neither a text "prompt" nor "messages"'),
        ('{"prompt": "a", "answer": "b"}', "record 2: has a field answer already"),
        (json.dumps({"prompt": "a " * 300}), r"record 2: \d+ tokens, but the model sees 128 at most"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "record 2: message 1: assistant after nothing"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_answered(folder, tmp_path, line, message):
    (tmp_path / "prompts.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(InputError, match=message):
        main(verb(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.jsonl"]


def test_other_settings_and_files_of_others_are_refused(folder, tmp_path):
    write_prompts(tmp_path / "prompts.jsonl", 2)
    (tmp_path / "answers.jsonl").write_text("precious")
    with pytest.raises(InputError, match="something is there"):
        main(verb(folder, tmp_path))
    (tmp_path / "answers.jsonl").unlink()
    main(verb(folder, tmp_path))
    with pytest.raises(ConfigError, match=r"other settings \(sampling.temperature: 0.0 → 1.0\)"):
        main(verb(folder, tmp_path, temperature=1.0))
    with pytest.raises(ConfigError, match="prompts and output"):
        main(verb(folder, tmp_path, output=None))
    with pytest.raises(ConfigError, match=r"run\.dir and path"):
        main(verb(None, tmp_path, path=None))
