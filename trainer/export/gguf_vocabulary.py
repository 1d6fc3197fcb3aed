"""A tokenizer as a GGUF file describes it.

llama.cpp has a list of its own of ways to split a text, by name: a tokenizer whose way isn't in it would get other ids
there, and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainer.data.examples.render import Renderer
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import InputError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # gguf.TokenType

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS, _REST = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_REST}"
QWEN_2 = rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_REST}"

# Steps of tokenizer.json's pre_tokenizer, as `_steps` gives them, and whether whole words go before merges
# (ignore_merges) → llama.cpp's name
PRE_TOKENIZERS = {
    ((("ByteLevel", True),), False): "gpt-2",
    ((("Digits", True), ("ByteLevel", True)), False): "smollm",
    ((("Split", LLAMA_3), ("ByteLevel", False)), True): "llama-bpe",
    ((("Split", QWEN_2), ("ByteLevel", False)), False): "qwen2",
}


@dataclass(frozen=True)
class GgufVocabulary:
    """`tokens` and their `types` by id; `pre` is llama.cpp's name for how texts are split before merges.

    `adds_beginning` and `adds_end`: whether Hugging Face's tokenizer puts these tokens around a text.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    beginning: int
    end: int
    end_of_turn: int
    adds_beginning: bool
    adds_end: bool
    chat_template: str | None


def read_vocabulary(tokenizer: Tokenizer, rows: int, *, beginning: int) -> GgufVocabulary:
    """The vocabulary of a model whose embedding has `rows` rows. InputError for what llama.cpp would read otherwise."""
    loaded = json.loads(tokenizer.content)
    model, name = loaded["model"], tokenizer.name
    if model.get("type", "BPE") != "BPE" or model.get("byte_fallback") or model.get("continuing_subword_prefix"):
        raise InputError(f"{name}: format=gguf takes tokenizers that are byte-level BPE alone; export format=hf.")
    pre = _pre_tokenizer(loaded, name)
    if tokenizer.vocab_size > rows:
        raise InputError(f"{name}: {tokenizer.vocab_size} tokens, but the model's embedding has {rows} rows.")
    tokens, types = [f"[PAD{number}]" for number in range(rows)], [UNUSED] * rows
    for token, number in tokenizer.engine.get_vocab(with_added_tokens=True).items():
        tokens[number], types[number] = token, NORMAL
    for number, added in tokenizer.engine.get_added_tokens_decoder().items():
        types[number] = CONTROL if added.special else USER_DEFINED
    around = [int(i) for i in tokenizer.engine.encode("a", add_special_tokens=True).ids]
    inner = tokenizer.encode("a")
    return GgufVocabulary(
        pre=pre,
        tokens=tokens,
        types=types,
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]],
        beginning=around[0] if around[:1] != inner[:1] else beginning,
        end=tokenizer.end_of_text_id,
        end_of_turn=_end_of_turn(tokenizer),
        adds_beginning=around[:1] != inner[:1],
        adds_end=around[-1:] != inner[-1:],
        chat_template=tokenizer.chat_template,
    )


def _end_of_turn(tokenizer: Tokenizer) -> int:
    """The token that ends an answer in a chat; end of text where there is no chat template."""
    if tokenizer.chat_template is None:
        return tokenizer.end_of_text_id
    ends = Renderer(tokenizer).turn_ends
    return next((end for end in ends if end != tokenizer.end_of_text_id), tokenizer.end_of_text_id)


def _pre_tokenizer(loaded: dict[str, Any], name: str) -> str:
    steps = tuple(_steps(loaded.get("pre_tokenizer")))
    found = PRE_TOKENIZERS.get((steps, bool(loaded["model"].get("ignore_merges"))))
    normalizer = (loaded.get("normalizer") or {}).get("type")
    if found is None or (normalizer is not None and (found, normalizer) != ("qwen2", "NFC")):
        raise InputError(
            f"{name}: llama.cpp splits texts in ways of its own list, and this tokenizer's isn't in it (known here: "
            f"{', '.join(PRE_TOKENIZERS.values())}): ids would differ; export format=hf."
        )
    return found


def _steps(step: Any) -> Iterator[tuple[str, Any]]:
    """What decides about ids in each step of a pre_tokenizer; a step of another kind by its whole content."""
    step = step or {"type": None}
    kind = step["type"]
    if kind == "Sequence":
        for inner in step["pretokenizers"]:
            yield from _steps(inner)
    elif kind == "ByteLevel" and not step.get("add_prefix_space"):
        yield kind, step.get("use_regex", True)
    elif kind == "Digits":
        yield kind, step["individual_digits"]
    elif kind == "Split" and step["behavior"] == "Isolated" and not step["invert"] and "Regex" in step["pattern"]:
        yield kind, step["pattern"]["Regex"]
    else:
        yield json.dumps(step), None
