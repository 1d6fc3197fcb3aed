import pytest
import torch
import yaml

from launch.groups import SHIPPED
from trainer.config import Model
from trainer.model import sizes
from trainer.model.decoder import Transformer

PRESETS = sorted((SHIPPED / "model").glob("*.yaml"))
VARIANTS = [
    {"qk_norm": True, "head_dim": 48, "tie_word_embeddings": True},
    {"qkv_bias": True, "num_experts": 3, "moe_intermediate_size": 40},
]


@pytest.mark.parametrize(
    "fields", [*(yaml.safe_load(path.read_text()) for path in PRESETS), *VARIANTS], ids=lambda f: f.get("name", "")
)
def test_they_are_the_model_s(fields):
    config = Model(**{"vocab_size": 1003, **fields})
    with torch.device("meta"):
        model = Transformer(config)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert sizes.decoder_shapes(config) == expected
    assert sizes.count(expected) == sum(parameter.numel() for parameter in model.parameters())
