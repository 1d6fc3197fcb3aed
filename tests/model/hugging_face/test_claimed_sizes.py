"""A config.json that claims other sizes than its weights have is refused by name before anything is made so large."""

import json
import resource
import shutil

import pytest
import torch

from tests.hf_folder import make_folder
from tests.hugging_face import save_other
from trainer.config import Export, Model
from trainer.errors import InputError
from trainer.evaluate.folder_model import load_folder
from trainer.evaluate.sampling import Sampling, generate_tokens
from trainer.model.hugging_face.folder import find_model
from trainer.verbs.export import folder_source

ROOM = 4 * 2**30  # bytes beyond what the process has
ABSURD = {
    "width": ("hidden_size", 10**9),
    "a little wider": ("hidden_size", 128),
    "layers": ("num_hidden_layers", 10**7),
    "some more layers": ("num_hidden_layers", 9),
    "vocabulary": ("vocab_size", 10**10),
    "a larger vocabulary": ("vocab_size", 10**6),
    "inner width": ("intermediate_size", 10**9),
    "heads": ("num_attention_heads", 10**9),
    "key heads": ("num_key_value_heads", 10**9),
    "wide heads": ("head_dim", 10**8),
    "negative": ("hidden_size", -64),
    "none": ("vocab_size", 0),
    "text": ("hidden_size", "64"),
    "list": ("vocab_size", [300]),
}
AS_GPT2 = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "intermediate_size": "n_inner"}
AS_GPT2 |= {"num_attention_heads": "n_head"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of our decoder's architecture, and one that Hugging Face's own code computes."""
    path = tmp_path_factory.mktemp("claims")
    make_folder(path / "llama")
    save_other(path / "gpt2", "gpt2")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(path / "llama" / name, path / "gpt2")
    return path


@pytest.fixture
def little_room():
    """Where what is claimed can't be had: a raw error of torch's otherwise."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def claim(source, folder, **fields):
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("key", "value"), ABSURD.values(), ids=ABSURD)
def test_sizes_that_the_weights_do_not_have_are_refused(folders, tmp_path, little_room, kind, key, value):
    key = AS_GPT2.get(key, key) if kind == "gpt2" else key
    if kind == "gpt2" and key in ("num_key_value_heads", "head_dim"):
        pytest.skip("GPT-2 has no such field")
    folder = claim(folders / kind, tmp_path / "model", **{key: value})
    for road in (lambda: load_folder(folder, torch.device("cpu")), lambda: folder_source(folder, Export())):
        with pytest.raises(InputError, match=key) as caught:
            road()
        assert "\n" not in str(caught.value)
        assert str(folder) in str(caught.value)


def test_a_run_of_hugging_faces_own_code_refuses_them_before_it_begins(folders, tmp_path):
    folder = claim(folders / "gpt2", tmp_path / "model", vocab_size=10**6)
    with pytest.raises(InputError, match="vocab_size=1000000, but no weight beside it is larger"):
        find_model(Model(path=str(folder)), tmp_path / "run")
    find_model(Model(path=str(folder), overrides={"vocab_size": 300}), tmp_path / "run")


def test_a_context_that_no_memory_has_room_for_costs_what_is_used_of_it(folders, tmp_path, little_room):
    folder = claim(folders / "llama", tmp_path / "model", max_position_embeddings=2**24)
    model = load_folder(folder, torch.device("cpu"))
    how = Sampling(max_tokens=3, temperature=0)
    tokens = list(generate_tokens(model, [1, 2], how, context_length=2**24, end_of_text=-1))
    assert tokens == list(generate_tokens(model, [1, 2], how, context_length=5, end_of_text=-1))
