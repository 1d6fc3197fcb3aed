"""A Hugging Face model for more tokens than its config.json says: which parameters have a row for each token."""

from __future__ import annotations

import dataclasses

from trainer.config import Model
from trainer.errors import ConfigError
from trainer.model.build import parameter_shapes
from trainer.model.hugging_face.causal_lm import read_model_config

SIZE = "vocab_size"


def vocabulary_of(model: Model) -> int:
    """How many tokens it has logits for."""
    return int(read_model_config(model).get_text_config().vocab_size)


def widened_to(model: Model, tokens: int) -> Model:
    """The model with rows for at least so many tokens. ConfigError where its vocabulary isn't its config.json's own."""
    if vocabulary_of(model) >= tokens:
        return model
    known = read_model_config(model)
    if known.get_text_config() is not known:
        raise ConfigError(
            f"{model.path}: {known.model_type} holds a model of text within another, to which tokens can't be added; "
            "prepare the data with a chat template of tokens that its own tokenizer has (data.chat_template)."
        )
    return dataclasses.replace(model, overrides={**model.overrides, SIZE: tokens})


def token_parameters(model: Model) -> list[str]:
    """The parameters with a row for each token, found by adding one: embedding, head, perhaps the head's bias.

    ConfigError where one grows otherwise.
    """
    shapes = parameter_shapes(model)
    wider = parameter_shapes(widened_to(model, vocabulary_of(model) + 1))
    names = [name for name, shape in shapes.items() if wider.get(name) != shape]
    for name in names:
        if wider.get(name) != (shapes[name][0] + 1, *shapes[name][1:]):
            raise ConfigError(
                f"{model.path}: {name} has no row for each token, so that tokens can't be added; prepare the data with "
                "a chat template of tokens that the model's own tokenizer has (data.chat_template)."
            )
    return names
