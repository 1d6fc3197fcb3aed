"""What compiled blocks keep for backward: what torch's own partitioner decides, which needs no GPU."""

from pathlib import Path

import pytest
import torch

from tests.run_ranks import small_config
from trainer.model.decoder import Decoder
from trainer.planning.activations import activations_of
from trainer.planning.layout import layout_of

SIZES = {
    "model__hidden_size": 256,
    "model__intermediate_size": 704,
    "model__num_hidden_layers": 2,
    "model__vocab_size": 512,
    "model__num_attention_heads": 4,
    "model__num_key_value_heads": 2,
    "data__sequence_length": 128,
    "train__micro_batch_size": 4,
    "train__compile": True,
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bytes_that_compiled_blocks_keep(precision):
    config = small_config(Path("data"), Path("run"), train__precision=precision, **SIZES)
    decoder = Decoder(config.model, SIZES["model__vocab_size"])
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    for block in decoder.layers:
        block.compile(backend="aot_eager_decomp_partition")  # Inductor's decisions, without its code
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    tokens = torch.randint(0, 512, (4, 128))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output, _ = decoder(tokens, None, None)
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    measured = sum(size for place, size in kept.items() if place not in weights)
    predicted = 2 * activations_of(layout_of(config, 1)).saved
    assert output.shape == (4, 128, 256)
    assert measured == pytest.approx(predicted, rel=0.08)  # the rest is the embedding's and the last norm's
