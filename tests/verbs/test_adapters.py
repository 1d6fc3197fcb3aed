"""Adapters of our model and of Hugging Face's: exported merged and in peft's format, with the same logits."""

from dataclasses import replace

import pytest
import torch

from tests.corpus import make_dataset, make_tokenizer
from tests.engine.test_finetune_parity import LENGTH
from tests.engine.test_lora import LORA, with_everything_sharded
from tests.hugging_face import save_other
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.targets import make_masked_dataset
from trainer.config import Adapt, Export, ExportSettings, Model
from trainer.errors import ConfigError
from trainer.model.adapters import adapted_shapes
from trainer.verbs import export

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")


def write(run_dir, output, form):
    config = Export(format=form, export=ExportSettings(output=str(output)))
    config.run.dir = str(run_dir)
    assert export.main(config) == 0
    return output


def logits(model):
    tokens = torch.randint(300, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(tokens).logits


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    """A Hugging Face folder of a model of ours."""
    folder = tmp_path_factory.mktemp("base")
    config = small_config(corpus, folder / "run", train__steps=3)
    assert run_ranks(pretrain, config, 1) == [0]
    return write(folder / "run", folder / "hf", "hf")


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return make_masked_dataset(tmp_path_factory.mktemp("chats") / "masked", documents=60).folder


@pytest.mark.parametrize(
    ("theirs", "dora"),
    [(False, False), *(pytest.param(*each, marks=pytest.mark.full) for each in [(True, False), (False, True)])],
    ids=["ours", "hf", "dora"],
)
def test_merged_and_in_pefts_format_the_logits_are_the_same(base, chats, tmp_path, theirs, dora):
    source = {"model__path": str(base)} if theirs else {"model__init_from": str(base)}
    config = small_config(
        chats,
        tmp_path / "run",
        data__sequence_length=LENGTH,
        data__packing="whole",
        train__steps=4,
        adapt__dora=dora,
        adapt__targets=["q_proj", "v_proj", "down_proj"],
        parallel__zero_stage=0 if dora else 3,
        **source,
        **LORA,
    )
    if theirs:
        shape = small_config(chats, tmp_path).model.__class__()
        for key in (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
        ):
            setattr(config.model, key, getattr(shape, key))
    ranks = 1 if dora else 2
    assert run_ranks(pretrain if dora else with_everything_sharded, config, ranks) == [0] * ranks
    merged = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "run", tmp_path / "merged", "hf"))
    folder = write(tmp_path / "run", tmp_path / "peft", "peft")
    apart = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), folder)
    start = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert (logits(merged) - logits(apart)).abs().max() < 1e-4
    assert (logits(merged) - logits(start)).abs().max() > 1e-2


def test_new_tokens_get_rows_that_are_trained_and_saved_beside_adapters(base, tmp_path):
    tokenizer = make_tokenizer().with_special(["<|im_start|>", "<|im_end|>"])
    make_dataset(tmp_path / "wide", documents=30, tokenizer=tokenizer)
    config = small_config(tmp_path / "wide", tmp_path / "run", train__steps=2, model__init_from=str(base), **LORA)
    assert run_ranks(pretrain, config, 1) == [0]
    merged = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "run", tmp_path / "merged", "hf"))
    before = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert merged.get_input_embeddings().weight.shape[0] == before.get_input_embeddings().weight.shape[0] + 2
    head, old = merged.get_output_embeddings().weight, before.get_output_embeddings().weight
    assert (head[:300] - old).abs().max() > 1e-4  # trained
    assert (head[300:] - old.mean(0)).abs().max() < 0.05  # and begun as the mean
    apart = transformers.AutoModelForCausalLM.from_pretrained(base)
    apart.resize_token_embeddings(302, mean_resizing=False)
    adapted = peft.PeftModel.from_pretrained(apart, write(tmp_path / "run", tmp_path / "peft", "peft"))
    assert (logits(merged) - logits(adapted)).abs().max() < 1e-4


THEIRS = {  # architecture, changes, what is trained
    "qwen3 tied": ("qwen3", {}, LORA),
    "phi, a head with a bias": ("phi", {}, LORA),
    "bloom tied, names translated": ("bloom", {}, LORA),
    "gpt_neox": ("gpt_neox", {}, LORA),
    "gpt2 tied, all of it": ("gpt2", {}, {}),
}


@pytest.mark.parametrize("case", ["qwen3 tied", *(pytest.param(c, marks=pytest.mark.full) for c in list(THEIRS)[1:])])
def test_new_tokens_widen_hugging_faces_models_too(tmp_path, case):
    """As where a chat template's tokens were appended to the model's tokenizer; stock peft reads tied rows as tied."""
    kind, changes, adapt = THEIRS[case]
    before = save_other(tmp_path / "base", kind, **changes)
    make_tokenizer().save(tmp_path / "base")
    tokenizer = make_tokenizer().with_special(["<|im_start|>", "<|im_end|>"])
    make_dataset(tmp_path / "wide", documents=30, tokenizer=tokenizer)

    def configure(**more):
        config = small_config(tmp_path / "wide", tmp_path / "run", train__steps=3, **adapt, **more)
        config.model = Model(name="theirs", path=str(tmp_path / "base"))
        return config

    assert run_ranks(pretrain, configure(train__stop_at=1), 1) == [85]
    if not adapt:  # a run needs its folder at the start only
        (tmp_path / "base").rename(tmp_path / "gone")
    assert run_ranks(with_everything_sharded, configure(parallel__zero_stage=3), 2) == [0, 0]
    merged = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "run", tmp_path / "merged", "hf"))
    head, old = merged.get_output_embeddings().weight, before.get_output_embeddings().weight
    assert head.shape[0] == merged.config.vocab_size == 302
    assert 1e-4 < (head[:300] - old).abs().max() < 0.05  # trained
    assert (head[300:] - old.mean(0)).abs().max() < 0.05  # and begun as the mean
    if adapt:
        apart = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        apart.resize_token_embeddings(302, mean_resizing=False)
        adapted = peft.PeftModel.from_pretrained(apart, write(tmp_path / "run", tmp_path / "peft", "peft"))
        assert (logits(merged) - logits(adapted)).abs().max() < 1e-4
        adapted.merge_and_unload().save_pretrained(tmp_path / "theirs")
        reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
        assert (logits(merged) - logits(reloaded)).abs().max() < 1e-4


def test_tied_embeddings_stay_tied_and_adapters_beside_them_are_refused(corpus, tmp_path):
    """An adapter on the head would be merged into the embedding; new rows are trained once, and shared."""
    config = small_config(corpus, tmp_path / "base", train__steps=3, model__tie_word_embeddings=True)
    assert run_ranks(pretrain, config, 1) == [0]
    base = write(tmp_path / "base", tmp_path / "hf", "hf")
    tokenizer = make_tokenizer().with_special(["<|im_start|>", "<|im_end|>"])
    make_dataset(tmp_path / "wide", documents=30, tokenizer=tokenizer)
    settings = {"train__steps": 3, "model__init_from": str(base), "model__tie_word_embeddings": True, **LORA}
    config = small_config(tmp_path / "wide", tmp_path / "run", parallel__zero_stage=3, **settings)
    assert run_ranks(with_everything_sharded, config, 2) == [0, 0]
    merged = transformers.AutoModelForCausalLM.from_pretrained(write(tmp_path / "run", tmp_path / "merged", "hf"))
    assert merged.config.tie_word_embeddings
    assert merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
    assert merged.get_input_embeddings().weight.shape[0] == 302
    apart = transformers.AutoModelForCausalLM.from_pretrained(base)
    apart.resize_token_embeddings(302, mean_resizing=False)
    adapted = peft.PeftModel.from_pretrained(apart, write(tmp_path / "run", tmp_path / "peft", "peft"))
    assert (logits(merged) - logits(adapted)).abs().max() < 1e-4
    with pytest.raises(ConfigError, match=r"adapt.targets=lm_head: "):
        adapted_shapes(replace(config.model, vocab_size=302), Adapt(name="lora", targets=["lm_head"]))
