"""The stage between shuffle and shards: the tokenizer, trained unless one is given, and who encodes with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from trainer.config import Data, Prepare
from trainer.data.examples.formats import CHAT, holds_chats, texts_in
from trainer.data.examples.render import special_tokens_of
from trainer.data.examples.template import CHATML, read_template
from trainer.data.text.corpus import Corpus
from trainer.data.text.document_store import sample_texts
from trainer.data.text.progress import ProgressBar, bytes_in_words, say
from trainer.data.text.workers import Work
from trainer.data.tokens.encoder import try_tokenizer
from trainer.data.tokens.modalities import with_modalities
from trainer.data.tokens.round_trip import Loss
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from trainer.data.tokens.training_text import TrainingText
from trainer.errors import InputError
from trainer.machine.durable import write_json
from trainer.machine.json_file import Malformed, from_json, read_json
from trainer.machine.sealing.keyring import KEYRING

CHECKED_BYTES = 2**20  # text on which the tokenizer is tried
LOOKED_AT = 100  # examples, to tell whether they are chats
MOST_LOSS = 0.5  # of these bytes that may not come back from their ids


@dataclass(frozen=True)
class EncoderChoice:
    """Who encodes, and why (tokens/encoder.py, Trial); whether the documents are chats."""

    engine: str
    why: str
    chats: bool = False


@dataclass(frozen=True)
class ChooseEncoder(Work[str, EncoderChoice]):
    """Trains the tokenizer, unless one is given, and tries it on a sample of the input."""

    config: Prepare
    corpus: Corpus
    given: Tokenizer | None

    @property
    def folder(self) -> Path:
        """Where the workers load the tokenizer from, whatever becomes of the one that was given."""
        return self.corpus.stored.store.folder / "tokenizer"

    def note(self, item: str) -> Path:
        """Who encodes, and why."""
        return self.corpus.stored.store.folder / f"{item}.json"

    def __call__(self, item: str) -> EncoderChoice:
        """Reads the sample. InputError where the tokenizer can't say most of it."""
        note = self.note(item)
        try:
            return from_json(EncoderChoice, read_json(note))
        except FileNotFoundError:
            pass
        except Malformed as error:
            raise self.corpus.stored.store.unreadable(note, error) from error
        chats = _holds_chats(self.config.data, self.corpus)
        if (self.folder / "tokenizer.json").exists():
            tokenizer = load_tokenizer(self.folder)
        else:
            tokenizer = with_template(self.given or _train(self.config, self.corpus), self.config.data, chats=chats)
            tokenizer = with_modalities(tokenizer, self.config.data.modalities)
            tokenizer.save(self.folder)
        trial = try_tokenizer(tokenizer, sample_texts(_plain_texts(self.config.data, self.corpus), CHECKED_BYTES))
        check_loss(tokenizer, trial.loss, allow=self.config.data.tokenizer.allow_loss)
        encoding = EncoderChoice(trial.engine, trial.why, chats)
        write_json(note, asdict(encoding))
        return encoding


def with_template(tokenizer: Tokenizer, data: Data, *, chats: bool) -> Tokenizer:
    """The tokenizer with the chat template that the data ask for, and the special tokens that this writes."""
    if data.chat_template is None and not chats:
        return tokenizer
    if data.chat_template is None and tokenizer.chat_template is not None:
        return tokenizer
    template = read_template(data.chat_template or CHATML)
    return replace(tokenizer, chat_template=template).with_special(special_tokens_of(template))


def _holds_chats(data: Data, corpus: Corpus) -> bool:
    """Whether a template will be needed, as far as the first training documents tell."""
    if data.format == CHAT or not data.has_examples:
        return data.format == CHAT
    return any(map(holds_chats, islice(corpus.training_texts(), LOOKED_AT)))


def _plain_texts(data: Data, corpus: Corpus) -> Iterator[bytes]:
    """The training documents as text, which examples are stored around."""
    documents = corpus.training_texts()
    if not data.has_examples:
        return documents
    return (text for document in documents for text in texts_in(document))


def _train(config: Prepare, corpus: Corpus) -> Tokenizer:
    """Trains a tokenizer on the first training documents in the order of the shuffle."""
    wanted = config.data.tokenizer
    with ProgressBar("tokenizer", min(wanted.train.sample_bytes, corpus.bytes_of("train"))) as progress:
        texts = _counted(sample_texts(_plain_texts(config.data, corpus), wanted.train.sample_bytes), progress)
        training = TrainingText(texts, memory_bytes=wanted.train.memory_bytes)
        tokenizer = train_tokenizer(training, vocab_size=wanted.train.vocab_size, name=config.data.name)
    if training.stopped:
        say(
            "tokenizer",
            f"trained on the first {bytes_in_words(training.given)} of the text: their distinct words fill "
            f"data.tokenizer.train.memory_bytes={wanted.train.memory_bytes}; with more it sees more",
        )
    tokenizer = replace(tokenizer, name=f"{config.data.name}-bpe-{tokenizer.vocab_size}")
    short = tokenizer.vocab_size < wanted.train.vocab_size
    less = f" (less than the {wanted.train.vocab_size:,} wanted: the text holds no more pairs)" if short else ""
    say("tokenizer", f"{tokenizer.name}: byte-level BPE, {tokenizer.vocab_size:,} tokens{less}")
    return tokenizer


def check_loss(tokenizer: Tokenizer, loss: Loss, *, allow: bool) -> None:
    """Tells what a tokenizer can't say of the text; InputError where that is most of it, unless it is allowed."""
    if not loss.lost:
        return
    shown = loss.example if KEYRING.source is None else "what isn't shown, since it is to be encrypted"
    lost = f"{loss.share:.2%} of the bytes tried don't come back from their ids: {shown}"
    if loss.share > MOST_LOSS and not allow:
        raise InputError(
            f"data.tokenizer.path: {tokenizer.name} can't say this text, {lost}: choose a tokenizer that knows it, or "
            "set data.tokenizer.allow_loss=true."
        )
    say("tokenizer", f"WARNING: {lost}")


def _counted(texts: Iterator[bytes], progress: ProgressBar) -> Iterator[bytes]:
    for text in texts:
        progress.advance(bytes=len(text))
        yield text
