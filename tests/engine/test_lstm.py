"""model=lstm: trains as plain PyTorch trains it at every shape, goes on to the bit, and is written and read."""

import itertools
import shutil

import pytest
import torch

from tests.engine.reference import assert_same_course, train_given
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.checkpoint.find import find_checkpoint
from trainer.config import Explain, Export, Plan, Run
from trainer.data.tokens.datasets import open_training
from trainer.errors import ConfigError, InputError
from trainer.evaluate import trained_model
from trainer.evaluate.folder_model import load_folder
from trainer.evaluate.sampling import Sampling, generate_tokens
from trainer.model.initialize import initial_weight
from trainer.model.lstm import LSTM
from trainer.rules.pretrain import check_pretrain
from trainer.run.directory import read_config
from trainer.verbs.explain import main as explain
from trainer.verbs.export import main as export
from trainer.verbs.plan import with_known_model

CPU = torch.device("cpu")
SIZES = {"model__kind": "lstm", "model__intermediate_size": 704, "model__num_attention_heads": 4}


def configure(corpus, run_dir, **changes):
    return small_config(corpus, run_dir, **SIZES, train__steps=4, **changes)


def seeded(config):
    model = LSTM(config.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_weight(config.seed, name, tuple(parameter.shape), config.model))
    return model


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    config = configure(corpus, tmp_path_factory.mktemp("plain"), data__mask_documents=True)
    config.model.vocab_size = open_training(config.data)[0].manifest.vocab_size
    return train_given(config, seeded(config))


ALWAYS = [(2, 2, 2), (2, 3, 2)]
SHAPES = [
    pytest.param(*shape, marks=() if shape in ALWAYS else pytest.mark.full)
    for shape in itertools.product((1, 2), (0, 1, 2, 3), (2, 4))
]


@pytest.mark.parametrize(("ranks", "stage", "micro"), SHAPES)
def test_losses_and_norms_equal_plain_pytorch(corpus, tmp_path, reference, ranks, stage, micro):
    changes = {"parallel__zero_stage": stage, "train__micro_batch_size": micro, "data__mask_documents": True}
    assert run_ranks(pretrain, configure(corpus, tmp_path / "run", **changes), ranks) == [0] * ranks
    assert_same_course(tmp_path / "run", reference, 1e-5)


def test_resumed_exported_and_asked(corpus, tmp_path):
    whole, broken = (configure(corpus, tmp_path / name, model__dropout=0.1) for name in ("whole", "broken"))
    assert run_ranks(pretrain, whole, 1) == [0]
    broken.train.stop_at = 2
    assert run_ranks(pretrain, broken, 1) == [85]
    broken.train.stop_at = None
    assert run_ranks(pretrain, broken, 1) == [0]
    assert_equal_states(tmp_path / "whole", tmp_path / "broken")

    verb = Export()
    verb.run.dir, verb.export.output = str(tmp_path / "whole"), str(tmp_path / "out")
    assert export(verb) == 0
    config = read_config(tmp_path / "whole")
    model = trained_model.load_model(config.model, find_checkpoint(tmp_path / "whole", None), CPU, torch.float32)
    tokens = torch.arange(1, 20)[None]
    written = load_folder(tmp_path / "out", CPU)
    with torch.no_grad():
        assert torch.equal(written(tokens), model(tokens))
    likeliest, ids = Sampling(max_tokens=6, temperature=0), list(range(1, 20))
    with torch.no_grad():
        for token in generate_tokens(written, ids, likeliest, context_length=64, end_of_text=0):
            assert token == int(model(torch.tensor([ids]))[0, -1].argmax())  # the state is that of all tokens so far
            ids.append(token)
    verb.format, verb.export.output = "gguf", str(tmp_path / "gguf")
    with pytest.raises(ConfigError, match="format=gguf with model=lstm"):
        export(verb)
    for place in ({"run": Run(dir=str(tmp_path / "whole"))}, {"path": str(tmp_path / "out")}):
        with pytest.raises(InputError, match="an LSTM; what is inside such a model isn't known to explain"):
            explain(Explain(prompt="the red", **place))
    shutil.rmtree(tmp_path / "out")


def test_each_document_of_a_row_is_read_from_zeros(corpus, tmp_path):
    config = configure(corpus, tmp_path)
    config.model.vocab_size = 300
    model = seeded(config).eval()
    one, two = torch.arange(1, 8)[None], torch.arange(50, 62)[None]
    ids = torch.cat((torch.zeros_like(one), torch.ones_like(two)), dim=1)
    with torch.no_grad():
        together = model(torch.cat((one, two), dim=1), document_ids=ids)
        torch.testing.assert_close(together[:, 7:], model(two), rtol=1e-6, atol=1e-6)
        assert not torch.allclose(model(torch.cat((one, two), dim=1))[:, 7:], model(two))


def test_gradients_come_in_one_order_whatever_the_lengths_of_documents(corpus, tmp_path):
    """By which ranks' gradients are added to each other: at ZeRO-2, as they come."""
    config = configure(corpus, tmp_path)
    config.model.vocab_size = 300
    model, order = seeded(config), []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    tokens, orders = torch.arange(64).view(2, 32), []
    for split in (None, 32, 31, 10):
        ids = None if split is None else torch.tensor([[0] * 32, [0] * split + [1] * (32 - split)])
        model(tokens, tokens, ids).sum().backward()
        orders.append(list(order))
        order.clear()
    assert orders == [orders[0]] * 4


REFUSED = {
    "model__num_attention_heads": (8, "has no effect on model=lstm"),
    "parallel__tensor": (2, "parallel.tensor=2 with model=lstm"),
    "train__precision": ("bf16", "train.precision=bf16 with model=lstm"),
    "model__init_from": ("somewhere", "begin with checkpoint.fork_from"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_is_for_attention_is_refused(corpus, tmp_path, key):
    value, words = REFUSED[key]
    with pytest.raises(ConfigError, match=words):
        check_pretrain(small_config(corpus, tmp_path, **SIZES | {key: value}), 2)


def test_plan_refuses_it():
    config = Plan()
    config.model.kind = "lstm"
    with pytest.raises(ConfigError, match="plan reckons with attention"):
        with_known_model(config)
