"""Tokenizers: train a byte-level BPE, load one, encode, decode, copy.

The file `tokenizer.json` is the tokenizer; its sha256 is part of a dataset's fingerprint. `tokenizers` defines the
ids. A tokenizer.json may come from anywhere: it is checked before anything is done by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.tokens.tokenizer_file import MOST_BYTES, first_line, read_text, read_tokenizer, rust_errors
from trainer.data.tokens.training_text import TrainingText, byte_level
from trainer.data.tokens.windows import encode_long
from trainer.errors import ConfigError, InputError
from trainer.machine.durable import make_folder, write_bytes, write_json, write_together
from trainer.machine.hub_name import is_hub_name, local_folder, parse_hub_name
from trainer.machine.sealing.plaintext import plaintext_sha256, read_plaintext

END_OF_TEXT = "<|endoftext|>"
USUAL_ENDS = (
    END_OF_TEXT,
    "<|end_of_text|>",
    "<|end▁of▁sentence|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|im_end|>",
    "[SEP]",
)
NAMED_TOKENS = ("bos_token", "unk_token", "pad_token")
SMALLEST_VOCABULARY = 257  # 256 bytes and the end-of-text token

FILE, CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
FILES = (FILE, CONFIG, "special_tokens_map.json", TEMPLATE)  # that are copied with a tokenizer


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer: `content` is tokenizer.json's text, `end_of_text` the token that ends every document."""

    name: str
    content: str
    end_of_text: str
    named_tokens: tuple[tuple[str, str], ...] = ()  # bos, unk and pad, where a loaded tokenizer has them
    chat_template: str | None = None  # Jinja

    @cached_property
    def engine(self) -> Any:
        """The `tokenizers.Tokenizer`; special tokens written out in a text are text to it, not special."""
        from tokenizers import Tokenizer as Engine

        engine = Engine.from_str(self._deterministic())
        engine.no_truncation()
        engine.no_padding()
        engine.encode_special_tokens = True
        return engine

    @cached_property
    def _rendered_engine(self) -> Any:
        """The same, but that special tokens written out are special, as a chat template means them."""
        from tokenizers import Tokenizer as Engine

        engine = Engine.from_str(self._deterministic())
        engine.no_truncation()
        engine.no_padding()
        engine.encode_special_tokens = False
        return engine

    def _deterministic(self) -> str:
        """tokenizer.json without dropout, which draws the ids, and with the end-of-text token marked special.

        Else a text that spells that token would end there.
        """
        loaded = json.loads(self.content)
        for token in loaded.get("added_tokens") or []:
            token["special"] = bool(token.get("special")) or token["content"] == self.end_of_text
        if loaded["model"].get("dropout"):
            loaded["model"]["dropout"] = None
        return json.dumps(loaded)

    @cached_property
    def sha256(self) -> str:
        """The sha256 of tokenizer.json, in hexadecimal."""
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
        with self._errors(text):
            return list(self.engine.encode(text, add_special_tokens=False).ids)

    def encode_rendered(self, text: str) -> list[int]:
        """Ids of what a chat template made: special tokens written out are special. No beginning or end is added."""
        with self._errors(text):
            return list(self._rendered_engine.encode(text, add_special_tokens=False).ids)

    def encode_as_hugging_face(self, text: str, *, around: bool = True) -> list[int]:
        """Ids as Hugging Face's tokenizers give them: special tokens written out are special.

        `around` adds what the tokenizer puts around every text, such as a beginning-of-text token.
        """
        with self._errors(text):
            return list(self._rendered_engine.encode(text, add_special_tokens=around).ids)

    @cached_property
    def prefix_id(self) -> int:
        """Id of the token that a text with nothing before it follows: beginning-of-text, or else end-of-text."""
        beginning = dict(self.named_tokens).get("bos_token")
        found = None if beginning is None else self.engine.token_to_id(beginning)
        return self.end_of_text_id if found is None else int(found)

    def with_special(self, tokens: Iterable[str]) -> Tokenizer:
        """The tokenizer with further special tokens, whose ids follow all others; those that it has stay."""
        loaded, following = json.loads(self.content), self.vocab_size
        known = self.engine.get_vocab(with_added_tokens=True)
        lacking = [token for token in tokens if token not in known]
        if not lacking:
            return self
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        loaded["added_tokens"] = [
            *(loaded.get("added_tokens") or []),
            *({"id": following + place, "content": token, **flags} for place, token in enumerate(lacking)),
        ]
        return replace(self, content=json.dumps(loaded, ensure_ascii=False, indent=2))

    def encode_pieces(self, text: bytes) -> list[np.ndarray]:
        """The same of a UTF-8 `text`, in pieces (tokens,) uint32: memory is bounded, however long the text."""
        with self._errors(text):
            return encode_long(self.engine, text)

    def _errors(self, text: str | bytes) -> AbstractContextManager[None]:
        """Turns a failure to encode, such as a regular expression's that gives up on `text`, into an InputError."""
        begin = text[:40].decode(errors="replace") if isinstance(text, bytes) else text[:40]
        return rust_errors(f"{self.name}: this tokenizer fails on a text that begins {begin!r}")

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Text of `ids`, special tokens included."""
        return str(self.engine.decode([int(i) for i in ids], skip_special_tokens=False))

    def decode_plain(self, ids: Sequence[int]) -> str:
        """Text of `ids` without special tokens."""
        return str(self.engine.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path, *, scratch: Path | None = None) -> None:
        """Writes tokenizer.json and the tokenizer_config.json that Hugging Face's AutoTokenizer wants."""
        make_folder(folder)
        write_json(
            folder / CONFIG,
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "name": self.name,
                "eos_token": self.end_of_text,
                **dict(self.named_tokens),
                "clean_up_tokenization_spaces": False,
            },
            scratch=scratch,
        )
        if self.chat_template is not None:
            write_bytes(folder / TEMPLATE, self.chat_template.encode(), scratch=scratch)
        write_bytes(folder / FILE, self.content.encode(), scratch=scratch)


# ----------------------------------------------------------------------------------------------------- train, load


def train_tokenizer(texts: Iterable[bytes] | TrainingText, *, vocab_size: int, name: str) -> Tokenizer:
    """A byte-level BPE with `<|endoftext|>` as id 0, trained on UTF-8 `texts`. Every text can be encoded, and back.

    The same texts give the same tokenizer, whatever their order, as long as their distinct words fit in memory
    (trainer.data.tokens.training_text).
    """
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"data.tokenizer.train.vocab_size={vocab_size}: at least {SMALLEST_VOCABULARY} "
            "(256 bytes and the end-of-text token) are needed."
        )
    pieces = texts if isinstance(texts, TrainingText) else TrainingText(texts)
    engine = Engine(models.BPE())
    engine.pre_tokenizer = byte_level()
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    engine.train_from_iterator(iter(pieces), trainer)
    return Tokenizer(name=name, content=engine.to_str(), end_of_text=END_OF_TEXT)


def load_tokenizer(path: str | Path, end_of_text: str | None = None) -> Tokenizer:
    """A tokenizer from tokenizer.json, or from a folder with one: Hugging Face's, a dataset's, an output of prepare.

    The end-of-text token is `end_of_text`, or eos_token of the folder's tokenizer_config.json, or has a usual name.
    """
    file = find_tokenizer(local_folder(path))
    folder = file.resolve().parent.name
    content, vocabulary = read_tokenizer(file)
    config = _read_config(file.with_name(CONFIG))
    tokenizer = Tokenizer(
        name=str(config.get("name") or (parse_hub_name(str(path), "").name if is_hub_name(str(path)) else folder)),
        content=content,
        end_of_text=_find_end(file, vocabulary, end_of_text, _token_text(config.get("eos_token"))),
        named_tokens=tuple((key, text) for key in NAMED_TOKENS if (text := _token_text(config.get(key))) in vocabulary),
        chat_template=_read_template(file.with_name(TEMPLATE), config.get("chat_template")),
    )
    with rust_errors(f"{file}: no tokenizer that `tokenizers` can read"):
        known = tokenizer.engine.get_vocab(with_added_tokens=True)
        tokenizer.engine.encode("a")
    if not known or tokenizer.end_of_text not in known:
        raise InputError(f"{file}: its vocabulary lacks {tokenizer.end_of_text}; fetch or write it again.")
    return tokenizer


def find_tokenizer(path: Path) -> Path:
    """The tokenizer.json that `path` names or holds."""
    if path.is_file():
        return path
    for inside in ("", "tokenizer", "train/tokenizer"):
        if (path / inside / FILE).is_file():
            return path / inside / FILE
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
    """tokenizer_config.json; {} where there is none."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: no JSON ({first_line(error)}); mend or remove it.") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: no JSON object; mend or remove it.")
    return content


def _read_template(file: Path, configured: Any) -> str | None:
    """The chat template: of its own file, or as tokenizer_config.json has it, where several have names `default`."""
    if file.is_file():
        return read_text(file)
    if isinstance(configured, list):
        named = {entry.get("name"): entry.get("template") for entry in configured if isinstance(entry, dict)}
        configured = named.get("default")
    return configured if isinstance(configured, str) else None


def _token_text(token: Any) -> str:
    """A token as transformers writes it: a string, or an object with `content`."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies the files of a tokenizer from one folder to another: those known by name, none by a link out of it."""
    folder = source.resolve()
    make_folder(target)
    contents = {}
    for name in FILES:
        file = source / name
        if not file.exists() and not file.is_symlink():
            continue
        if not file.is_file() or file.resolve().parent != folder:
            raise InputError(f"{file}: a link that leaves the folder, or no file: put the file itself there.")
        if file.stat().st_size > MOST_BYTES:
            raise InputError(f"{file}: {file.stat().st_size:,} bytes are no part of a tokenizer; remove it.")
        contents[name] = read_plaintext(file)
    write_together(target, contents)  # never through a link that is there


def tokenizer_sha256(file: Path) -> str:
    """The sha256 of a tokenizer.json. InputError where it isn't a file, or far too large to be one."""
    if not file.is_file():
        raise InputError(f"{file}: missing, or no file; restore it.")
    if file.stat().st_size > MOST_BYTES:
        raise InputError(
            f"{file}: {file.stat().st_size:,} bytes: no tokenizer is larger than {MOST_BYTES:,}; give its file."
        )
    return plaintext_sha256(file)
