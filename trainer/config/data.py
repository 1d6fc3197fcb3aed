"""What prepare reads and writes, and what training reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.clean import Clean
from trainer.config.encryption import Encryption
from trainer.config.knobs import knob, part
from trainer.config.modalities import Modality
from trainer.config.near import Near
from trainer.config.paragraphs import Paragraphs


@dataclass
class TokenizerTrain:
    """How a tokenizer is trained."""

    vocab_size: int = knob(
        4096, "Vocabulary of the byte-level BPE trained on the input.", "tokens", common=True, low=1, decides=True
    )
    sample_bytes: int = knob(64 * 2**20, "Most text that the tokenizer is trained on.", "bytes", low=1, decides=True)
    memory_bytes: int = knob(
        450_000_000,
        "Memory for the distinct words of that text, about: where it is full, the text ends.",
        "bytes",
        low=1,
        decides=True,
        later=True,
    )


@dataclass
class TokenizerSettings:
    """Which tokenizer prepare uses."""

    path: Optional[str] = knob(
        None, "tokenizer.json, or a Hugging Face folder; by default one is trained.", common=True
    )
    end_of_text: Optional[str] = knob(
        None, "End-of-text token of the loaded tokenizer; found by itself if usual.", decides=True
    )
    allow_loss: bool = knob(False, "Prepare even where most of the text doesn't come back from the tokenizer's ids.")
    train: TokenizerTrain = part(TokenizerTrain)


FORMATS = ("text", "jsonl", "csv", "tsv", "parquet", "arrow", "tar", "warc", "wikipedia", "html", "epub")
EXAMPLES = (
    "chat",
    "prompt_completion",
    "preference",
    "labelled",
    "tagged",
    "seq2seq",
    "segments",
)  # trainer/data/examples/formats.py


@dataclass
class Augment:
    """Copies of labelled texts with some words changed, for training alone (EDA; Wei and Zou 2019)."""

    copies: int = knob(0, "Changed copies of each training text; 0 is off.", high=100, later=True, decides=True)
    delete: float = knob(0.1, "Chance of each word to be left out.", high=0.9, later=True, decides=True)
    swap: float = knob(
        0.1, "Pairs of words that change places, as a share of the words.", high=1.0, later=True, decides=True
    )
    replace: float = knob(
        0.1, "Words that become a synonym, as a share of the words.", high=1.0, later=True, decides=True
    )
    synonyms: Optional[str] = knob(
        None, "A table of synonyms: words that mean the same to a line, separated by tabs.", later=True, decides=True
    )


@dataclass
class TextSource:
    """One source of text, with what is known of it; what it doesn't say is as in `data`."""

    input: list[str] = knob([], "Files, folders, globs or URLs, as in data.input.")
    licence: Optional[str] = knob(None, "Its licence, written into the manifest.")
    language: Optional[str] = knob(None, "Its language, such as en or zh, written into the manifest.")
    format: Optional[str] = knob(
        None, "What its files hold; by default their names and contents say it.", choices=(*FORMATS, *EXAMPLES)
    )
    text_field: Optional[str] = knob(None, "Field or column that holds its text.")


@dataclass
class TrainingSet:
    """One dataset of a mixture."""

    path: str = knob("", "Folder of token shards, or an output of prepare.")
    weight: float = knob(1.0, "Share of the mixture, relative to the other weights; with 0 it rests till a stage.")
    epochs: Optional[float] = knob(
        None, "Most passes over it; then it leaves the mixture, and the others share its part. None: as often as asked."
    )


@dataclass
class MixtureStage:
    """Weights of the mixture from some point of the run on."""

    from_tokens: int = knob(0, "Tokens of the run after which it begins.", "tokens", low=1)
    weights: dict[str, float] = knob({}, "Weight of each set of data.train; those that aren't named rest.")


@dataclass
class LengthStage:
    """Shorter rows, as a run begins."""

    until_tokens: int = knob(0, "Tokens of the run up to which it holds: the step that reaches them is its last.")
    sequence_length: int = knob(0, "Tokens that rows are cut into until then; must divide data.sequence_length.")


@dataclass
class ValidationSet:
    """One named validation set."""

    path: str = knob("", "Folder of token shards, or an output of prepare.")


@dataclass
class Data:
    """What prepare reads and writes, and what training reads."""

    name: str = knob("custom", "What the data are called; part of the default run name.", is_name=True, decides=True)
    # prepare
    input: list[str] = knob(
        [],
        "Files, folders, globs or URLs (s3, gs, https, hf) of text, JSON lines, Parquet, CSV, HTML, WARC and others.",
        common=True,
    )
    sources: dict[str, TextSource] = knob(
        {},
        "More inputs, each described: data.sources.NAME={input: …, licence: …, language: …, format: …, text_field: …}.",
        later=True,
        decides=True,
    )
    include: list[str] = knob([], "File endings taken from folders, such as .py; by default all that are known.")
    exclude: list[str] = knob([], "Glob patterns of paths to leave out of folders.")
    output: Optional[str] = knob(None, "Folder that prepare writes train/ and validation/ to.", common=True)
    format: Optional[str] = knob(
        None,
        "What the files hold, by default as their names and contents say; or records, in JSON or tables, of which the "
        "answers are learnt: chat (messages, ShareGPT, Alpaca), prompt_completion or preference (prompt, chosen, "
        "rejected); or labelled (text, label), tagged (tokens, tags; CoNLL too) or seq2seq (source, target); or "
        "segments, texts and codes of data.modalities in turn.",
        common=True,
        choices=(*FORMATS, *EXAMPLES),
        later=True,
        decides=True,
    )
    text_field: str = knob(
        "text",
        "Field of a .jsonl record, column of a table, or member of a .tar sample, that holds the text.",
        common=True,
        decides=True,
    )
    separator: Optional[str] = knob(
        None,
        r"What stands between the documents of a text file, such as \n\n\n; by default it is one.",
        later=True,
        decides=True,
    )
    encoding: str = knob(
        "utf-8",
        "Encoding of text that isn't marked otherwise: utf-8, utf-16, gb18030, big5 …; auto guesses, and counts it.",
        later=True,
        decides=True,
    )
    html: str = knob(
        "resiliparse",
        "Who extracts the text of HTML.",
        choices=("resiliparse", "trafilatura"),
        later=True,
        decides=True,
    )
    chat_template: Optional[str] = knob(
        None,
        "chatml, or a file with a Jinja template; by default the tokenizer's own, or chatml where it has none.",
        later=True,
        decides=True,
    )
    bad_records: str = knob(
        "refuse",
        "A chat or prompt that can't be learnt from is refused by name; or reject: counted, and left out.",
        choices=("refuse", "reject"),
        later=True,
        decides=True,
    )
    labels: list[str] = knob(
        [],
        "Labels of labelled or tagged data in the order of their numbers, others are refused; by default those found.",
        later=True,
        decides=True,
    )
    modalities: dict[str, Modality] = knob(
        {},
        "Codes of images, audio and the like, that become tokens (data.format=segments): "
        "data.modalities.NAME={codes: N, books: 1}.",
        later=True,
        decides=True,
    )
    augment: Augment = part(Augment)
    most_document_bytes: int = knob(
        2**27,
        "Largest document that is read; larger ones are counted as too_large, or refused by name.",
        "bytes",
        low=1,
        decides=True,
    )
    licence: Optional[str] = knob(None, "Licence of the sources, written into the manifest.", decides=True)
    language: Optional[str] = knob(
        None, "Language of the sources, such as en or zh, written into the manifest.", later=True, decides=True
    )
    refuse_licences: list[str] = knob(
        [],
        "Licences that are refused, as glob patterns, such as CC-BY-NC*; `unknown` is for sources without one.",
        later=True,
    )
    clean: Clean = part(Clean)
    tokenizer: TokenizerSettings = part(TokenizerSettings)
    validation_fraction: float = knob(
        0.01, "Share of documents held out, chosen by their hash.", common=True, high=0.5, decides=True
    )
    test_fraction: float = knob(
        0.0, "Share of documents kept for a test set, by their hash; evaluate.test.", high=0.5, decides=True, later=True
    )
    deduplicate: bool = knob(True, "Drop exact duplicates of documents.", decides=True)
    near_duplicates: bool = knob(
        False, "Drop documents that are nearly the same as another (data.near).", later=True, decides=True
    )
    near: Near = part(Near)
    rehydrate: dict[int, int] = knob(
        {},
        "Copies of a document that stays of near ones, by the size of its cluster: of the largest key up to it.",
        later=True,
        decides=True,
    )
    repeated_paragraphs: bool = knob(
        False, "Take out paragraphs that an earlier document has (data.paragraphs).", later=True, decides=True
    )
    paragraphs: Paragraphs = part(Paragraphs)
    shuffle_documents: bool = knob(True, "Shuffle documents globally by (seed, hash).", decides=True)
    shard_bytes: int = knob(256 * 2**20, "Text that goes into a shard, about.", "bytes", low=1, decides=True)
    block_tokens: int = knob(
        2**18, "Tokens of whole documents in one sample of a shard, about.", "tokens", low=1, decides=True
    )
    reference: Optional[str] = knob(
        None,
        "Model that preferences are measured against, the one that training will start from: a run, a checkpoint "
        "(step-N) or a Hugging Face folder. Its log-probabilities are stored with the pairs.",
        later=True,
    )
    teacher: Optional[str] = knob(
        None,
        "Model to be learnt from (objective=distill), likewise; of each token its likeliest ones are stored.",
        later=True,
    )
    teacher_top_k: int = knob(
        32, "How many of them, with the mass of all others.", "tokens", low=1, high=1024, later=True, decides=True
    )
    teacher_temperature: float = knob(
        1.0, "Temperature of the teacher's probabilities.", low=0.01, high=100.0, later=True, decides=True
    )
    model_precision: str = knob(
        "fp32",
        "Numbers that the reference and the teacher are computed in; a reference's must be the run's.",
        choices=("fp32", "bf16"),
        later=True,
        decides=True,
    )
    encryption: Encryption = part(Encryption)
    workers: Optional[int] = knob(None, "Processes that prepare uses; by default one per core.", low=1)
    # pretrain and evaluate
    path: Optional[str] = knob(None, "Folder of token shards to train on: an output of prepare.", common=True)
    train: dict[str, TrainingSet] = knob({}, "A mixture: data.train.NAME={path: DIR, weight: W}.", common=True)
    temperature: Optional[float] = knob(
        None,
        "Weights count times rows ** (1 / temperature): 1 by size, more evens sizes out. None: weights as they are.",
        low=0.01,
        later=True,
    )
    stages: dict[str, MixtureStage] = knob(
        {},
        "A schedule of the mixture: data.stages.NAME={from_tokens: N, weights: {SET: W, …}}, such as better data last.",
        later=True,
    )
    validation: dict[str, ValidationSet] = knob(
        {}, "Named validation sets: data.validation.NAME={path: DIR}.", common=True
    )
    sequence_length: int = knob(256, "Tokens in a row of training data.", "tokens", common=True, low=1)
    length_ramp: dict[str, LengthStage] = knob(
        {},
        "Shorter rows first: data.length_ramp.NAME={until_tokens: N, sequence_length: L} cuts each row into such of L; "
        "a step has as many tokens.",
        later=True,
    )
    mask_documents: bool = knob(False, "Attention stays inside a document and positions restart.", common=True)
    packing: str = knob(
        "stream",
        "How documents become rows: stream joins and cuts them anywhere; whole lays each, whole, into a row by best "
        "fit, and they don't see each other; single gives each a row of its own.",
        common=True,
        choices=("stream", "whole", "single"),
        later=True,
    )
    long_documents: str = knob(
        "cut",
        "Documents longer than a row are cut, with packing=whole into rows, with single to one, or rejected.",
        choices=("cut", "reject"),
        later=True,
    )
    shuffle_shards: int = knob(16, "Shards that form a window in which rows are shuffled.", "shards", low=1)
    verify_bytes: int = knob(
        16 * 2**30,
        "Datasets up to this size are hashed before they are read, shared out among ranks; indices are checked always.",
        "bytes",
    )
    prefetch: int = knob(4, "Micro-batches read ahead of use.", low=1)
    cache: Optional[str] = knob(
        None,
        "Folder on a disk of the node for shards of data at a URL, by default below ~/.cache/banyan; where it is "
        "given, shards of folders (a mount) are fetched into it as well.",
        later=True,
    )
    cache_bytes: int = knob(
        64 * 2**30,
        "Most that it holds; what is needed last goes first. With 0 tars of others are read where they lie, by ranges.",
        "bytes",
        low=0,
        later=True,
    )
    on_bad_shard: str = knob(
        "stop",
        "Where a shard that is fetched is damaged, missing or too slow: stop; retry, which waits until it comes; or "
        "skip, which leaves its rows out and lists them.",
        choices=("stop", "retry", "skip"),
        later=True,
    )
    shard_patience_s: float = knob(
        300.0, "How long training waits for a shard, and for a store that fails, before it is bad.", "s", later=True
    )

    @property
    def has_examples(self) -> bool:
        """Whether prepare reads examples, of which not all tokens are learnt, rather than text."""
        return self.format in EXAMPLES

    @property
    def separates_documents(self) -> bool:
        """Whether documents of a row don't see each other."""
        return self.mask_documents or self.packing != "stream"
