"""Odd requests are encoded and answered as lm-evaluation-harness's `hf` backend does it: blanks, long and empty
contexts, beginning-of-text tokens, special tokens written out, windows over long texts, greedy completions."""

import dataclasses
import json
import os

import pytest

from tests.corpus import make_tokenizer, write_texts
from tests.hf_folder import make_folder
from tests.run_ranks import run_ranks

pytest.importorskip("lm_eval")

TEXT = write_texts(1, seed=4)[0]
PAIRS = [
    ("the tree", " grows"),
    ("the tree ", "grows"),
    ("the tree\n\n", "grows many trunks"),
    ("the tr", "ee"),  # joined they are other tokens
    ("", "every root"),
    ("", "<|endoftext|>the tree"),
    ("<|endoftext|>the", " tree"),
    (" ".join(write_texts(4, seed=6)), " finds water"),  # longer than the context
    ("root", " " + TEXT[:300]),
    ("树 and café ", "树"),
]
TEXTS = [TEXT, " ".join(write_texts(6, seed=5)), "a", "the  tree \n"]
PROMPTS = [
    ("the tree grows", {"until": ["\n"], "max_gen_toks": 12}),
    ("root", {"until": [" w", "st"], "max_gen_toks": 20, "do_sample": False}),
    (" ".join(write_texts(3, seed=7)), {"until": [], "max_gen_toks": 9}),
]


def answer_both(argument):
    """Answers of both to the same, as JSON."""
    folder, output = argument
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from trainer.config import Checkpoint, Run
    from trainer.evaluate.tasks.answer import Answering
    from trainer.evaluate.tasks.encode import RequestEncoder
    from trainer.evaluate.tasks.request import Completion, Likelihood, Rolling
    from trainer.evaluate.tasks.work import encode_requests
    from trainer.ranks.mesh import join
    from trainer.run.speaker import open_speaker

    mesh = join()
    speaker = open_speaker(Run(), Checkpoint(), str(folder), device=mesh.device)
    requests = [
        *(Likelihood(*pair) for pair in PAIRS),
        *(Rolling(text) for text in TEXTS),
        *(Completion(prompt, tuple(how["until"]), how["max_gen_toks"]) for prompt, how in PROMPTS),
    ]
    encoder = RequestEncoder(speaker.tokenizer, speaker.context_length)
    questions = encode_requests(requests, encoder, [""] * len(requests))
    found = Answering(speaker.model, speaker.tokenizer, mesh, batch_tokens=400).find(questions.work)
    ours = questions.answers(found)
    mesh.leave()
    # Its cache takes the wrong logits where two requests are the same tokens, cut at different places
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=3, logits_cache=False)
    made = {
        "loglikelihood": PAIRS,
        "loglikelihood_rolling": [(text,) for text in TEXTS],
        "generate_until": PROMPTS,
    }
    theirs = {
        kind: getattr(lm, kind)([Instance(kind, {}, arguments, 0) for arguments in given])
        for kind, given in made.items()
    }
    output.write_text(json.dumps({"ours": ours, "theirs": [*theirs.values()]}))
    return 0


def with_beginning(tokenizer):
    """A tokenizer that puts a token before every text, as Llama's does."""
    content = json.loads(tokenizer.with_special(["<|begin|>"]).content)
    number = next(token["id"] for token in content["added_tokens"] if token["content"] == "<|begin|>")
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|begin|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|begin|>": {"id": "<|begin|>", "ids": [number], "tokens": ["<|begin|>"]}},
    }
    return dataclasses.replace(tokenizer, content=json.dumps(content), named_tokens=(("bos_token", "<|begin|>"),))


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("kind", ["llama", pytest.param("qwen2", marks=pytest.mark.full)])
def test_answers_are_those_of_the_harness_s_own_backend(tmp_path, kind, begins):
    tokenizer = with_beginning(make_tokenizer(299)) if begins else make_tokenizer(300)
    bos = {"bos_token_id": 299 if begins else tokenizer.end_of_text_id}
    make_folder(tmp_path / "model", kind, tokenizer, **bos)
    assert run_ranks(answer_both, (tmp_path / "model", tmp_path / "answers"), 1) == [0]
    found = json.loads((tmp_path / "answers").read_text())
    expected = [answer for kind in found["theirs"] for answer in kind]
    for ours, theirs in zip(found["ours"], expected, strict=True):
        if isinstance(theirs, str):
            assert ours == theirs
        elif isinstance(theirs, list):
            assert ours[0] == pytest.approx(theirs[0], abs=1e-4)
            assert ours[1] == theirs[1]
        else:
            assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-6)
    assert len({answer for answer in expected if isinstance(answer, str)}) == len(PROMPTS)
