"""Tokenizers: train a byte-level BPE, load one, encode fast, decode.

The file `tokenizer.json` is the tokenizer; its sha256 is part of a dataset's fingerprint. `tokenizers` defines the
ids. gigatoken, dozens of times faster, encodes where its ids are the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.durable import make_folder, write_bytes, write_json
from trainer.errors import ConfigError, InputError

END_OF_TEXT = "<|endoftext|>"
USUAL_ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|end▁of▁sentence|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "<|im_end|>")
NAMED_TOKENS = ("bos_token", "unk_token", "pad_token")
SMALLEST_VOCABULARY = 257  # 256 bytes and the end-of-text token

# What encoders are likely to disagree on; checked besides a sample of the input.
AWKWARD_TEXTS = (
    "it's we'll I'M ſ's",
    "a\r\n b\t\t c\n\n\n  d",
    "中文，字符。日本語テキスト 한국어",
    "😀👩\u200d👩\u200d👧 e\u0301 ﷺ \u0378",
    "\u00a0\u2003x\u3000y\u2028z\u200b\u0085 \x1c\x1f\x7f",
    "1234567890 ½ ² ٣٤٥ 3.14e-10",
    " " * 300 + "x" * 300,
    "a_B--c==>!?",
)


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: `content` is tokenizer.json's text, `end_of_text` the token that ends every document."""

    name: str
    content: str
    end_of_text: str
    named_tokens: tuple[tuple[str, str], ...] = ()  # bos, unk and pad, where a loaded tokenizer has them

    @cached_property
    def engine(self) -> Any:
        """The `tokenizers.Tokenizer`; special tokens written out in a text are text to it, not special."""
        from tokenizers import Tokenizer as Engine

        engine = Engine.from_str(self._with_special_end())
        engine.no_truncation()
        engine.no_padding()
        engine.encode_special_tokens = True
        return engine

    def _with_special_end(self) -> str:
        """tokenizer.json with the end-of-text token marked special: else a text that spells it would end there."""
        loaded = json.loads(self.content)
        for token in loaded.get("added_tokens") or []:
            token["special"] = bool(token.get("special")) or token["content"] == self.end_of_text
        return json.dumps(loaded)

    @cached_property
    def sha256(self) -> str:
        """Of tokenizer.json."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @cached_property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return int(max(self.engine.get_vocab(with_added_tokens=True).values())) + 1

    @cached_property
    def end_of_text_id(self) -> int:
        """Id of the end-of-text token."""
        return int(self.engine.token_to_id(self.end_of_text))

    @property
    def dtype(self) -> str:
        """The smallest type that holds every id."""
        return "uint16" if self.vocab_size <= 2**16 else "uint32"

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The special tokens with their ids, the end of text among them."""
        special = {t.content: i for i, t in self.engine.get_added_tokens_decoder().items() if t.special}
        return {**special, self.end_of_text: self.end_of_text_id}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, by `tokenizers`; no beginning or end is added."""
        return list(self.engine.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of `ids`, special tokens included."""
        return str(self.engine.decode([int(i) for i in ids], skip_special_tokens=False))

    def save(self, folder: Path, *, scratch: Path | None = None) -> None:
        """Writes tokenizer.json and the tokenizer_config.json that transformers' AutoTokenizer wants."""
        make_folder(folder)
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "name": self.name,
                "eos_token": self.end_of_text,
                **dict(self.named_tokens),
                "clean_up_tokenization_spaces": False,
            },
            scratch=scratch,
        )
        write_bytes(folder / "tokenizer.json", self.content.encode(), scratch=scratch)


# ----------------------------------------------------------------------------------------------------- train, load


def train_tokenizer(texts: Iterable[bytes], *, vocab_size: int, name: str) -> Tokenizer:
    """A byte-level BPE with `<|endoftext|>` as id 0, trained on UTF-8 `texts`. Every text can be encoded, and back.

    The same texts give the same tokenizer, whatever their order.
    """
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"data.tokenizer.train.vocab_size={vocab_size}: at least {SMALLEST_VOCABULARY} "
            "(256 bytes and the end-of-text token) are needed."
        )
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator((text.decode() for text in texts), trainer)
    return Tokenizer(name=name, content=engine.to_str(), end_of_text=END_OF_TEXT)


def load_tokenizer(path: str | Path, end_of_text: str | None = None) -> Tokenizer:
    """A tokenizer from tokenizer.json, or from a folder with one: Hugging Face's, a dataset's, an output of prepare.

    The end-of-text token is `end_of_text`, or eos_token of the folder's tokenizer_config.json, or has a usual name.
    """
    file = find_tokenizer(Path(path).expanduser())
    try:
        content = file.read_text("utf-8")
        config = _read_config(file.with_name("tokenizer_config.json"))
        tokenizer = Tokenizer(
            str(config.get("name") or file.resolve().parent.name), content, end_of_text or END_OF_TEXT
        )
        vocabulary = tokenizer.engine.get_vocab(with_added_tokens=True)
    except Exception as error:  # `tokenizers` raises plain Exception for what it can't parse
        raise InputError(f"{file}: no tokenizer that `tokenizers` can read ({_first_line(error)}).") from error
    return Tokenizer(
        name=tokenizer.name,
        content=content,
        end_of_text=_find_end(file, vocabulary, end_of_text, _token_text(config.get("eos_token"))),
        named_tokens=tuple((key, text) for key in NAMED_TOKENS if (text := _token_text(config.get(key))) in vocabulary),
    )


def find_tokenizer(path: Path) -> Path:
    """The tokenizer.json that `path` names or holds."""
    if path.is_file():
        return path
    for inside in ("", "tokenizer", "train/tokenizer"):
        if (path / inside / "tokenizer.json").is_file():
            return path / inside / "tokenizer.json"
    raise InputError(
        f"data.tokenizer.path={path}: no tokenizer.json there; give the file or a folder that holds it "
        "(nothing is downloaded)."
    )


def _find_end(file: Path, vocabulary: dict[str, int], wanted: str | None, configured: str) -> str:
    if wanted is not None:
        if wanted not in vocabulary:
            raise InputError(f"{file}: data.tokenizer.end_of_text={wanted} is not in its vocabulary.")
        return wanted
    for token in (configured, *USUAL_ENDS):
        if token in vocabulary:
            return token
    raise InputError(
        f"{file}: no end-of-text token under a usual name ({', '.join(USUAL_ENDS[:4])} …): name it by "
        "data.tokenizer.end_of_text."
    )


def _read_config(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def _token_text(token: Any) -> str:
    """A token as transformers writes it: a string, or an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def sha256_of(file: Path) -> str:
    """The sha256 of a file, as hexadecimal digits."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# ----------------------------------------------------------------------------------------------------------- encode


class Encoder:
    """Texts → ids, one text at a time, in one thread: processes are the parallelism. `engine` says who does it."""

    def __init__(self, tokenizer: Tokenizer, engine: str) -> None:
        self.tokenizer = tokenizer
        self._fast = _gigatoken(tokenizer) if engine == "gigatoken" else None
        # gigatoken takes a special token spelt out in the text for the token itself, so such texts go the slow way.
        spelt = "|".join(re.escape(content) for content in tokenizer.special_ids)
        self._special = re.compile(spelt.encode())

    def encode(self, texts: Iterable[bytes]) -> Iterator[np.ndarray]:
        """The ids of each UTF-8 text, (tokens,), without end of text. Special tokens spelt out in it stay text."""
        for text in texts:
            if self._fast is not None and not self._special.search(text):
                yield self._fast.encode(text)
            else:
                yield np.array(self.tokenizer.encode(text.decode()), np.uint32)


def _gigatoken(tokenizer: Tokenizer) -> Any:
    import gigatoken

    return gigatoken.Tokenizer.from_json(tokenizer.content)


def choose_engine(tokenizer: Tokenizer, sample: Iterable[bytes]) -> tuple[str, str]:
    """Who encodes, "gigatoken" or "tokenizers", and why: gigatoken must give the same ids on every text of `sample`."""
    checked = 0
    try:
        fast = Encoder(tokenizer, "gigatoken")
        for text in (*sample, *(awkward.encode() for awkward in AWKWARD_TEXTS)):
            ids = next(fast.encode([text])).tolist()
            if ids != tokenizer.encode(text.decode()):
                return (
                    "tokenizers",
                    f"gigatoken gives other ids for a text that begins {text[:40].decode(errors='replace')!r}",
                )
            checked += 1
    except Exception as error:  # an unknown kind of tokenizer, a missing wheel: `tokenizers` can do all
        return "tokenizers", f"gigatoken can't: {_first_line(error)}"
    return "gigatoken", f"same ids as tokenizers on {checked:,} texts"
