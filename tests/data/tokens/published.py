"""Tokenizers as others publish them, small: their pre-tokenizers and normalisers, with vocabularies of our own."""

from __future__ import annotations

import json
from typing import Any

CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
REGEXES: dict[str, list[str]] = {
    "gpt2": [],
    "llama3": [
        rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}",
    ],
    "qwen2": [rf"{CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{BLANKS}"],
    "o200k": [
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}?|"
        rf"\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{BLANKS}"
    ],
    "deepseek": [
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
        " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ],
}


def byte_level(name: str, *, nfc: bool = False) -> Any:
    """A byte-level BPE with a published regex. It joins any byte with the next to some: ids show where words end."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: number for number, character in enumerate(alphabet)}
    merges = []
    for common in "aZ1!Ġ":
        for character in alphabet:
            for pair in ((common, character), (character, common)):
                if vocabulary.setdefault("".join(pair), len(vocabulary)) == len(vocabulary) - 1:
                    merges.append(pair)
    engine = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    splits = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in REGEXES[name]]
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not splits)
    engine.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_only]) if splits else bytes_only
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(["<|endoftext|>"])
    if nfc:
        engine.normalizer = normalizers.NFC()
    return engine


def sentencepiece(texts: list[str], *, split: bool = True) -> Any:
    """A BPE such as Llama 2's: a space before the text, ▁ for spaces, bytes for what it doesn't know."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    engine = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=["<unk>", "</s>", *bytes_], show_progress=False)
    engine.train_from_iterator(texts, trainer)
    content = json.loads(engine.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    content["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    engine = Tokenizer.from_str(json.dumps(content))
    if not split:
        engine.pre_tokenizer = None
        engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return engine


def unigram(texts: list[str]) -> Any:
    """A Unigram model such as T5's, with NFKC."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    engine = Tokenizer(models.Unigram())
    engine.normalizer = normalizers.NFKC()
    engine.pre_tokenizer, engine.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    engine.train_from_iterator(texts, trainer)
    return engine


def wordpiece(texts: list[str]) -> Any:
    """A WordPiece such as BERT's, uncased."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "</s>"], show_progress=False)
    engine.train_from_iterator(texts, trainer)
    return engine
