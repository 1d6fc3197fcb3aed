"""A small Hugging Face folder with a tokenizer and a chat template, as users have them."""

import dataclasses

from tests.corpus import make_tokenizer
from tests.hugging_face import make_model
from trainer.data.examples.template import NAMED
from trainer.data.tokens.tokenizer import Tokenizer

WIDE = {"hidden_size": 64, "head_dim": 16}  # rows of whole blocks of 32


def make_folder(folder, kind="llama", tokenizer: Tokenizer | None = None, **changes):
    """A Hugging Face folder with a tokenizer that has ChatML's tokens; the model that it holds."""
    tokenizer = tokenizer or make_tokenizer(298).with_special(["<|im_start|>", "<|im_end|>"])
    end = tokenizer.end_of_text_id
    sizes = {**WIDE, "max_position_embeddings": 128, "bos_token_id": end, "eos_token_id": end, **changes}
    model = make_model(kind, **sizes)
    model.save_pretrained(folder)
    dataclasses.replace(tokenizer, chat_template=NAMED["chatml"]).save(folder)
    return model
