"""Hugging Face models through our engine: they train as plain PyTorch trains them, at every shape, and go on."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from tests.engine.reference import assert_same_course, train_given
from tests.hugging_face import load_model, save_other, some_tokens
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from tests.verbs.test_evaluate import evaluate_into, read_scores
from tests.verbs.test_evaluate import verb as evaluate_verb
from trainer.checkpoint.find import find_checkpoint
from trainer.config import Export, Model
from trainer.errors import ConfigError
from trainer.evaluate import trained_model as trained
from trainer.evaluate.sampling import Sampling, continue_text
from trainer.model.hugging_face.folder import keep_model, read_own_config
from trainer.model.hugging_face.safetensors_folder import SINGLE
from trainer.run.directory import load_run_tokenizer, read_config
from trainer.verbs.export import main as export

TOLERANCE = 1e-4
DROPOUT = {"attn_pdrop": 0.1, "resid_pdrop": 0.1, "embd_pdrop": 0.1}


class Plain(nn.Module):
    """Hugging Face's model and torch's cross-entropy, called as Transformer is."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.train()

    def forward(self, tokens, targets, document_ids):
        logits = self.inner(tokens, use_cache=False).logits
        return F.cross_entropy(logits.transpose(1, 2), targets, reduction="none").sum(dim=1)


def of_folder(corpus, run_dir, folder, **changes):
    config = small_config(corpus, run_dir, train__steps=4, **changes)
    config.model = Model(name="theirs", path=str(folder), overrides=config.model.overrides)
    return config


def train_theirs(config, folder):
    return train_given(config, Plain(load_model(folder)))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    save_other(folder, "gpt2")
    return folder


@pytest.fixture(scope="module")
def reference(corpus, gpt2, tmp_path_factory):
    return train_theirs(of_folder(corpus, tmp_path_factory.mktemp("plain"), gpt2), gpt2)


FULL = [(2, 0), (2, 1), (2, 2), (1, 3), (4, 3)]
SHAPES = [(1, 0), (2, 3), *(pytest.param(*shape, marks=pytest.mark.full) for shape in FULL)]


@pytest.mark.parametrize(("world_size", "stage"), SHAPES)
def test_losses_and_norms_equal_plain_transformers(corpus, tmp_path, gpt2, reference, world_size, stage):
    config = of_folder(corpus, tmp_path / "run", gpt2, parallel__zero_stage=stage)
    config.train.activation_checkpointing = "full" if stage == 3 else "none"
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", reference, TOLERANCE)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["gemma2", "gpt_neox", "opt", "mamba", "bloom", "phi3", "mixtral"])
def test_other_architectures_equal_plain_transformers_at_stage_3(corpus, tmp_path, kind):
    save_other(tmp_path / "model", kind)
    config = of_folder(corpus, tmp_path / "run", tmp_path / "model", parallel__zero_stage=3)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    assert_same_course(tmp_path / "run", train_theirs(config, tmp_path / "model"), TOLERANCE)


@pytest.fixture
def two_heads(tmp_path):
    """A folder whose config.json ties the head to the embedding, and whose file holds another head."""
    save_other(tmp_path / "model", "qwen3")
    tensors = load_file(tmp_path / "model" / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0) * 0.5
    save_file(tensors, tmp_path / "model" / SINGLE, metadata={"format": "pt"})
    return tmp_path / "model"


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), pytest.param(2, 3, marks=pytest.mark.full)])
def test_two_heads_are_trained_apart_as_transformers_has_them(corpus, tmp_path, two_heads, world_size, stage):
    config = of_folder(corpus, tmp_path / "run", two_heads, parallel__zero_stage=stage)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", train_theirs(config, two_heads), TOLERANCE)
    verb = Export()
    verb.run.dir = str(tmp_path / "run")
    assert export(verb) == 0
    exported = load_model(tmp_path / "run" / "export" / "step-00000004")
    assert not torch.equal(exported.lm_head.weight, exported.model.embed_tokens.weight)


def test_two_heads_are_still_two_when_a_run_goes_on(tmp_path, two_heads):
    model, run_dir = Model(path=str(two_heads)), tmp_path / "run"
    run_dir.mkdir()
    keep_model(run_dir, model, model, resumed=False)
    keep_model(run_dir, model, model, resumed=True)
    (two_heads / SINGLE).rename(tmp_path / "elsewhere")  # as after the first checkpoint
    keep_model(run_dir, model, model, resumed=True)
    assert not read_own_config(run_dir)[0]["tie_word_embeddings"]
    save_other(two_heads, "qwen3")
    with pytest.raises(ConfigError, match="tie_word_embeddings: False → True can't change"):
        keep_model(run_dir, model, model, resumed=True)


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), pytest.param(2, 3, marks=pytest.mark.full)])
def test_encoder_is_refused_before_its_first_step(corpus, tmp_path, world_size, stage):
    sizes = {"vocab_size": 300, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **sizes, "intermediate_size": 96}))
    off = {"model__overrides": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
    config = of_folder(corpus, tmp_path / "run", tmp_path, parallel__zero_stage=stage, **off)
    codes, errors = fail_ranks(pretrain, config, world_size)
    assert set(codes) == {2}
    assert "bert isn't causal" in errors[0]


MORE = [("llama", 2, 0), ("llama", 4, 3), ("gpt_neox", 2, 2), ("phi", 2, 1), ("gemma2", 4, 1), ("granite", 2, 3)]
TENSOR = [("qwen3", 2, 1), *(pytest.param(*each, marks=pytest.mark.full) for each in MORE)]


@pytest.mark.parametrize(("kind", "world_size", "stage"), TENSOR)
def test_published_plan_on_two_tensor_ranks_equals_plain_transformers(corpus, tmp_path, kind, world_size, stage):
    save_other(tmp_path / "model", kind)
    config = of_folder(corpus, tmp_path / "run", tmp_path / "model", parallel__zero_stage=stage, parallel__tensor=2)
    assert run_ranks(pretrain, config, world_size) == [0] * world_size
    assert_same_course(tmp_path / "run", train_theirs(config, tmp_path / "model"), TOLERANCE)


def test_resume_with_dropout_is_exact_and_another_shape_goes_on(corpus, tmp_path, gpt2):
    """The folder is gone by then: the run directory has its config.json."""
    folder = shutil.copytree(gpt2, tmp_path / "model")
    unbroken, broken, moved = (of_folder(corpus, tmp_path / name, folder) for name in ("unbroken", "broken", "moved"))
    for config in (unbroken, broken, moved):
        config.model.overrides = dict(DROPOUT)
    assert run_ranks(pretrain, unbroken, 1) == [0]
    broken.train.stop_at = moved.train.stop_at = 2
    assert run_ranks(pretrain, broken, 1) == [85]
    shutil.copytree(tmp_path / "broken", tmp_path / "moved")
    shutil.rmtree(folder)
    broken.train.stop_at = moved.train.stop_at = None
    assert run_ranks(pretrain, broken, 1) == [0]
    assert_equal_states(tmp_path / "unbroken", tmp_path / "broken")
    moved.parallel.zero_stage = 3
    assert run_ranks(pretrain, moved, 2) == [0, 0]
    rows = read_metrics(tmp_path / "unbroken")
    expected = [(row["train/loss"], row["train/grad_norm"]) for row in rows]
    assert_same_course(tmp_path / "moved", expected, TOLERANCE)


@pytest.mark.full
def test_bf16_keeps_buffers_and_is_within_its_noise(corpus, tmp_path):
    save_other(tmp_path / "model", "gemma2")
    expected = train_theirs(of_folder(corpus, tmp_path, tmp_path / "model"), tmp_path / "model")
    changes = {"train__precision": "bf16", "parallel__zero_stage": 3}
    config = of_folder(corpus, tmp_path / "run", tmp_path / "model", **changes)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    rows = read_metrics(tmp_path / "run")
    assert [row["train/loss"] for row in rows] == pytest.approx([loss for loss, _ in expected], rel=2**-8)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx([norm for _, norm in expected], rel=2**-4)


SCRATCH = [("mixtral", (1, 0, 1)), ("qwen3", (2, 1, 2))]


@pytest.mark.parametrize(
    ("kind", "shape"), [("gpt2", (2, 3, 1)), *(pytest.param(*each, marks=pytest.mark.full) for each in SCRATCH)]
)
def test_run_from_scratch_is_evaluated_continued_and_exported(corpus, tmp_path, kind, shape):
    """A folder with a config.json alone, which is gone once the run is over."""
    save_other(tmp_path / "model", kind)
    (tmp_path / "model" / "model.safetensors").unlink()
    ranks, stage, tensor = shape
    config = of_folder(
        corpus, tmp_path / "run", tmp_path / "model", parallel__zero_stage=stage, parallel__tensor=tensor
    )
    config.evaluate.every, config.data.mask_documents = 4, kind != "mixtral"
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    shutil.rmtree(tmp_path / "model")

    run_dir = tmp_path / "run"
    assert run_ranks(evaluate_into, (evaluate_verb(run_dir), tmp_path / "scores"), 1) == [0]
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    score = next(row["eval/validation/loss"] for row in rows if "eval/validation/loss" in row)
    assert read_scores((tmp_path / "scores").read_text())["validation"] == pytest.approx(score, rel=1e-5)

    config = read_config(run_dir)
    model = trained.load_model(config.model, find_checkpoint(run_dir, None), torch.device("cpu"), torch.float32)
    tokenizer, likeliest = load_run_tokenizer(run_dir), Sampling(max_tokens=5, temperature=0)
    assert "".join(continue_text(model, tokenizer, "the tree", likeliest, context_length=32))

    out = Export()
    out.run.dir, out.export.output = str(run_dir), str(tmp_path / "out")
    assert export(out) == 0
    with torch.no_grad():
        logits = load_model(tmp_path / "out")(some_tokens(1, 20)).logits
        torch.testing.assert_close(logits, model(some_tokens(1, 20)), rtol=0, atol=1e-5)
    assert load_model(tmp_path / "out").generation_config.eos_token_id == tokenizer.end_of_text_id


@pytest.mark.full
def test_scratch_begins_alike_at_every_shape(corpus, tmp_path, gpt2):
    folder = shutil.copytree(gpt2, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    losses = []
    for world_size, stage in ((1, 0), (2, 3)):
        config = of_folder(corpus, tmp_path / f"run{stage}", folder, parallel__zero_stage=stage)
        config.train.steps = 1
        assert run_ranks(pretrain, config, world_size) == [0] * world_size
        losses.append(read_metrics(tmp_path / f"run{stage}")[0]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_model_without_a_plan_is_refused_on_tensor_ranks_before_anything_is_written(corpus, tmp_path, gpt2):
    config = of_folder(corpus, tmp_path / "run", gpt2, parallel__tensor=2)
    codes, errors = fail_ranks(pretrain, config, 2)
    assert codes == [2, 2]
    assert "publishes no tensor-parallel plan for gpt2" in errors[0]
    assert not (tmp_path / "run").exists()
