import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tests.operators import Operators
from trainer.config import Model
from trainer.model.attention import KeyValueCache, document_block_mask
from trainer.model.build import parameter_shapes
from trainer.model.decoder import Transformer
from trainer.model.initialize import initialize
from trainer.model.rotary import rotary_tables
from trainer.rules.pretrain import check_model

CHOICES = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))
PRESETS = [path for path in CHOICES if path.stem != "hf"]  # whose sizes are those of a folder


def small(**changes: object) -> Model:
    sizes = {"vocab_size": 131, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    return Model(**{**sizes, **changes})


def built(config: Model) -> Transformer:
    model = Transformer(config)
    initialize(model, seed=1, model=config)
    return model


def some_tokens(batch: int = 2, time: int = 24, vocab_size: int = 131) -> torch.Tensor:
    return torch.randint(vocab_size, (batch, time), generator=torch.Generator().manual_seed(5))


def reference(config: Model) -> torch.nn.Module:
    """The same model by Hugging Face."""
    kinds = (Qwen3Config, Qwen3ForCausalLM) if config.qk_norm else (LlamaConfig, LlamaForCausalLM)
    settings = kinds[0](
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim or config.hidden_size // config.num_attention_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=config.tie_word_embeddings,
        attention_bias=False,
    )
    return kinds[1](settings).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 4, "rope_theta": 500000.0},
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
        {"head_dim": 32, "qk_norm": True},
    ],
)
def test_logits_equal_hugging_face_with_copied_weights(changes):
    config = small(**changes)
    model = Transformer(config)
    theirs = reference(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 0.3)
    weights = dict(theirs.named_parameters())
    assert weights.keys() == dict(model.named_parameters()).keys()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
        tokens = some_tokens(time=200)
        difference = model(tokens) - theirs(tokens).logits
    assert difference.abs().max() < 1e-4


def test_tied_head_is_one_parameter_wherever_the_model_is_moved():
    with torch.device("meta"):
        model = Transformer(small(tie_word_embeddings=True))
    model.to_empty(device="cpu").to(torch.bfloat16)
    names = [name for name, _ in model.named_parameters()]
    assert "model.embed_tokens.weight" in names
    assert "lm_head.weight" not in names
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_built_on_meta_and_filled_equals_built_on_cpu():
    config = small(qk_norm=True)
    with torch.device("meta"):
        model = Transformer(config)
    initialize(model.to_empty(device="cpu"), seed=1, model=config)
    assert torch.equal(model(some_tokens()), built(config)(some_tokens()))


def test_vocab_size_must_be_known():
    with pytest.raises(ValueError, match="vocab_size"):
        Transformer(Model())


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_cached_decoding_gives_the_full_forwards_logits(kv_heads):
    model, tokens = built(small(num_key_value_heads=kv_heads, qk_norm=True)), some_tokens(batch=2, time=20)
    with torch.no_grad():
        full = model(tokens)
        cache = KeyValueCache(layers=2, capacity=20)
        for start, stop in ((0, 5), (5, 6), (6, 7), (7, 12), *((i, i + 1) for i in range(12, 20))):
            step = model(tokens[:, start:stop], cache=cache)
            assert step.shape == (2, 1, 131)
            torch.testing.assert_close(step[:, 0], full[:, stop - 1], atol=1e-5, rtol=0)
    assert cache.length == 20


def test_documents_in_a_row_are_as_if_alone():
    model, tokens = built(small()), some_tokens(batch=2, time=24)
    lengths = [[7, 1, 16], [12, 12]]
    document_ids = torch.stack(
        [torch.repeat_interleave(torch.arange(3, 3 + len(row)), torch.tensor(row)) for row in lengths]
    )
    with torch.no_grad():
        together = model(tokens, document_ids=document_ids)
        for row, row_lengths in enumerate(lengths):
            alone = [model(piece[None])[0] for piece in tokens[row].split(row_lengths)]
            torch.testing.assert_close(together[row], torch.cat(alone), atol=1e-5, rtol=0)


def test_documents_and_a_cache_are_refused():
    with pytest.raises(ValueError, match="document_ids"):
        built(small())(some_tokens(), document_ids=torch.zeros(2, 24), cache=KeyValueCache(2, 24))


def test_dropout_follows_the_global_seed_and_is_off_in_evaluation():
    model, tokens = built(small(dropout=0.2)), some_tokens()

    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return model(tokens)

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    model.eval()
    assert torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(1), built(small())(tokens))


def test_bf16_weights_give_finite_fp32_losses_near_fp32s():
    model, tokens = built(small(tie_word_embeddings=True)), some_tokens()
    exact = model(tokens, targets=tokens)
    model.to(torch.bfloat16)
    rounded = model(tokens, targets=tokens)
    rounded.sum().backward()
    assert rounded.dtype == model(tokens).dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.full
def test_compiled_blocks_equal_eager():
    config, tokens = small(), some_tokens()
    document_ids = torch.arange(24).expand(2, -1) // 10
    for ids in (None, document_ids):
        eager, compiled = built(config), built(config)
        for block in compiled.blocks:
            block.compile(fullgraph=True)
        losses = [model(tokens, targets=tokens, document_ids=ids) for model in (eager, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        for loss in losses:
            loss.sum().backward()
        for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.full
@pytest.mark.parametrize("compile_blocks", [False, True])
def test_flex_attention_compiles_once_and_equals_the_dense_mask(compile_blocks, monkeypatch):
    """The way of document masks on CUDA, walked on the CPU (forward only: flex has no backward there)."""
    model, tokens = built(small()), some_tokens(time=256)
    documents = [torch.arange(256).expand(2, -1) // length for length in (37, 50, 11)]
    with torch.no_grad():
        expected = [model(tokens, document_ids=ids) for ids in documents]
        monkeypatch.setattr("trainer.model.decoder.document_mask", document_block_mask)
        if compile_blocks:
            for block in model.blocks:
                block.compile(fullgraph=True)
        for index, ids in enumerate(documents):
            with torch._dynamo.config.patch(error_on_recompile=index > 0):
                logits = model(tokens, document_ids=ids)
            torch.testing.assert_close(logits, expected[index], atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("changes", [{"qkv_bias": True, "qk_norm": True}, {}], ids=["biases", "plain"])
def test_merged_products_equal_single_ones_and_are_fewer(precision, changes):
    config, tokens = small(**changes), some_tokens()
    single, merged = built(config), built(config)
    merged.merge_products()
    assert merged.state_dict().keys() == single.state_dict().keys()
    found = []
    for model in (single, merged):
        with Operators() as seen, torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = model(tokens, targets=tokens)
            losses.sum().backward()
        products = sum(name in ("aten.mm.default", "aten.addmm.default") for name in seen.names)
        found.append((losses, products, [parameter.grad for parameter in model.parameters()]))
    tolerance = 1e-5 if precision == "fp32" else 0.02
    torch.testing.assert_close(found[1][0], found[0][0], rtol=tolerance, atol=0)
    for ours, theirs in zip(found[1][2], found[0][2], strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max() + 1e-6
    assert found[0][1] - found[1][1] == 9 * config.num_hidden_layers  # 7 products a block and way become 4


def test_blocks_are_clean_graphs():
    config = small(dropout=0.1)
    block, hidden = Transformer(config).blocks[0], torch.randn(2, 24, 64)
    rotary = rotary_tables(torch.arange(24)[None], head_dim=16, theta=10000.0)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    torch.manual_seed(0)
    expected = block(hidden, rotary)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(hidden, rotary), expected, rtol=0, atol=0)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_presets_are_valid_and_say_their_size(path):
    text = path.read_text()
    preset = Model(**yaml.safe_load(text))
    assert preset.name == path.stem
    check_model(preset)
    millions, vocab_size = re.search(r"^# ([\d.,]+) million parameters with a vocabulary of ([\d,]+)", text).groups()
    preset.vocab_size = int(vocab_size.replace(",", ""))
    count = sum(map(math.prod, parameter_shapes(preset).values()))
    assert f"{count / 1e6:,.1f}" == millions
