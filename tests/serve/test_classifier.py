"""Moderation by a classifier that Banyan trained and exported: what is asked and what is answered, streamed or not."""

import json

import pytest

from tests.hf_folder import make_folder
from tests.labels import configure, prepared, write_config
from tests.run_ranks import pretrain, run_ranks
from tests.serve.running import running
from tests.serve.test_guarded import ask
from tests.verbs.test_objectives import export_run
from trainer.config import Checkpoint, Run
from trainer.config.guards import Guards
from trainer.evaluate.sampling import Sampling
from trainer.run.speaker import open_speaker
from trainer.serve.moderation import STRETCH, open_moderation

pytestmark = pytest.mark.full  # a training, an export and a server: most of a minute
PROMPT = "the old tree by the river grows many trunks"
TOKENS = 400


def records_of(answer):
    """Sentences are good; stretches of what the model writes are bad."""
    words = ["tree", "river", "mill", "road", "stone", "garden", "birds", "light"]
    good = [f"the {a} stands by the {b} and the {c} grows old " for a in words for b in words for c in words[:3]]
    good += [(text * 5)[number % 30 :][:STRETCH] for number, text in enumerate(good)]
    bad = [answer[start : start + size] for start in range(0, len(answer) - 60, 7) for size in (60, STRETCH)]
    return [{"text": text, "label": label} for label, texts in (("good", good), ("bad", bad)) for text in texts]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The server, what its model goes on with after PROMPT, and the classifier's folder."""
    folder = tmp_path_factory.mktemp("classified")
    make_folder(folder / "model", max_position_embeddings=1024)
    speaker = open_speaker(Run(), Checkpoint(), str(folder / "model"))
    answer = "".join(speaker.continue_prompt(PROMPT, Sampling(max_tokens=TOKENS, temperature=0)))
    data = prepared(folder / "data", "labelled", records_of(answer), deduplicate=False)
    config = configure(data, folder / "run", write_config(folder / "bert", "bert"), "classify")
    config.train.steps, config.train.batch_size, config.train.micro_batch_size = 25, 16, 16
    config.optimizer.lr, config.optimizer.weight_decay = 3e-3, 0.0
    assert run_ranks(pretrain, config, 1) == [0]
    classifier = export_run(folder / "run", folder / "classifier")
    keys = ["serve.engine=torch", f"serve.moderation=[{classifier}]", "serve.moderation_labels=[bad]"]
    with running(folder / "model", *keys, log=folder / "log") as server:
        yield server, answer, classifier


def test_a_prompt_that_the_classifier_objects_to_is_refused_wherever_that_stands(served):
    server, answer, _ = served
    assert ask(server, "/v1/completions", prompt=PROMPT, max_tokens=1)[0] == 200
    bad = answer[40:140]
    for prompt in (bad, f"{PROMPT} {bad}", f"{bad} {' '.join([PROMPT] * 6)}"):  # longer than it reads, and at its front
        status, text = ask(server, "/v1/completions", prompt=prompt, max_tokens=1)
        assert (status, json.loads(text)["error"]["code"]) == (400, "content_filter"), prompt
    messages = [{"role": "user", "content": bad}]
    status, text = ask(server, "/v1/chat/completions", messages=messages, max_tokens=1)
    assert (status, json.loads(text)["error"]["param"]) == (400, "messages")
    assert "(bad)" in json.loads(text)["error"]["message"]


def test_an_answer_that_it_objects_to_is_not_shown_streamed_or_not(served):
    server, answer, _ = served
    assert len(answer) > 2 * STRETCH
    given = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    choice = json.loads(ask(server, "/v1/completions", **given)[1])["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("", "content_filter")
    events = ask(server, "/v1/completions", **given, stream=True)[1].splitlines()
    events = [json.loads(line[6:])["choices"][0] for line in events if line.startswith("data: {")]
    assert "".join(event["text"] for event in events) == ""
    assert events[-1]["finish_reason"] == "content_filter"


def test_an_answer_is_shown_as_far_as_it_is_good(served):
    _, answer, classifier = served
    moderation = open_moderation(Guards(moderation=[str(classifier)], moderation_labels=["bad"]))
    good = "the tree stands by the river and the mill grows old " * 8
    guard, shown = moderation.begin(), ""
    for letter in good:
        shown += guard.feed(letter)
    assert len(good) - STRETCH < len(shown) < len(good)
    assert shown + guard.finish() == good
    guard = moderation.begin()
    shown = "".join(map(guard.feed, good + answer)) + guard.finish()
    assert guard.tripped
    assert good[: len(good) - STRETCH] == shown[: len(good) - STRETCH]
    assert len(shown) < len(good) + STRETCH
