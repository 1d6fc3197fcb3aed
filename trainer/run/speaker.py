"""A model that answers: opened from a run directory or a Hugging Face folder, with its tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import kind_of_weights
from trainer.checkpoint.state import read_state
from trainer.config import Checkpoint, Run
from trainer.data.examples.render import Renderer, special_tokens_of
from trainer.data.examples.render_labelled import LabelRenderer
from trainer.data.examples.template import read_template
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.engine.bf16 import autocast
from trainer.errors import InputError, require
from trainer.evaluate.folder_model import context_of, end_tokens_of, find_model_folder, load_folder, require_writer
from trainer.evaluate.sampling import UNBOUNDED, Sampling, decode_stream, generate_tokens
from trainer.evaluate.trained_model import load_model
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.headed import Seq2SeqLM
from trainer.model.hugging_face.heads import CAUSAL, HEADS, SEQ2SEQ
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir, require_tokenizer_of


@dataclass(frozen=True)
class Speaker:
    """A model in evaluation mode; it sees `context_length` tokens at most.

    `ends` are tokens at which it stops, besides those of the chat template. `as_hugging_face`: texts begin with what
    the tokenizer puts before them, such as a beginning-of-text token; a run of ours wasn't trained with one.
    `described` is what answers come from, for the record.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    context_length: int
    ends: frozenset[int]
    described: dict[str, Any]
    as_hugging_face: bool = False

    @cached_property
    def renderer(self) -> Renderer:
        """How chats become ids, the same as prepare's. ConfigError where there is no template for this tokenizer."""
        template = self.tokenizer.chat_template
        require(
            template is not None,
            f"{self.tokenizer.name}: its tokenizer has no chat template: give chat_template=chatml or a file.",
        )
        lacking = [token for token in special_tokens_of(str(template)) if token not in self.tokenizer.special_ids]
        require(
            not lacking,
            f"{self.tokenizer.name}: the chat template writes {', '.join(lacking[:3])}, of which the tokenizer knows "
            "nothing: the model wasn't trained with this template; give another by chat_template.",
        )
        return Renderer(self.tokenizer)

    def prompt_ids(self, prompt: str) -> list[int]:
        """What the model is given to continue a text; for an empty one, the token that documents begin after."""
        if isinstance(self.model, Seq2SeqLM):
            return LabelRenderer(self.tokenizer).source_ids(prompt)
        ids = self.tokenizer.encode(prompt)
        if self.as_hugging_face:
            around = [int(i) for i in self.tokenizer.engine.encode(prompt, add_special_tokens=True).ids]
            ids = around[: len(around) - (around[-1:] != ids[-1:] and len(around) > len(ids))]
        return ids or [self.tokenizer.end_of_text_id]

    def chat_ids(self, messages: Sequence[Mapping[str, Any]], tools: list[Any] | None = None) -> list[int]:
        """What it is given to answer a chat. InputError where that is longer than what it sees."""
        ids = self.renderer.prompt_ids(messages, tools)
        if len(ids) > self.context_length:
            raise InputError(f"{len(ids):,} tokens, but the model sees {self.context_length:,} at most")
        return ids

    @property
    def chat_ends(self) -> frozenset[int]:
        """The tokens at which an answer ends."""
        return self.ends | set(self.renderer.turn_ends)

    def continue_prompt(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """What follows a text, in pieces that end with whole characters."""
        return self._pieces(self.prompt_ids(prompt), sampling, self.ends)

    def answer(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling) -> Iterator[str]:
        """The answer to a chat, in pieces; it ends at the token by which the template ends answers."""
        return self._pieces(self.chat_ids(messages), sampling, self.chat_ends)

    def _pieces(self, ids: list[int], sampling: Sampling, ends: frozenset[int]) -> Iterator[str]:
        new = generate_tokens(
            self.model,
            ids,
            sampling,
            context_length=UNBOUNDED if isinstance(self.model, Seq2SeqLM) else self.context_length,
            end_of_text=self.tokenizer.end_of_text_id,
            also_at=ends,
        )
        return self.decoded(ids, new)

    def decoded(self, prompt: list[int], tokens: Iterable[int]) -> Iterator[str]:
        """The text of tokens as they come after a prompt, which of an encoder–decoder is another text."""
        return decode_stream(self.tokenizer, [] if isinstance(self.model, Seq2SeqLM) else prompt, tokens)


def open_speaker(
    run: Run,
    checkpoint: Checkpoint,
    path: str | None,
    *,
    chat_template: str | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    as_trained: bool = False,
) -> Speaker:
    """What run.dir or `path` names. ConfigError unless it is just one of them.

    `dtype` is that of a run's weights; by default what it was trained in. A folder's are in fp32. `as_trained`: a run's
    model computes in the precision in which the run does, as its losses are measured.
    """
    require(
        (run.dir is None) != (path is None),
        "run.dir and path: give one of them, a run directory or a Hugging Face folder.",
    )
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speaker = (
        open_run(run, checkpoint, device, dtype, as_trained=as_trained)
        if path is None
        else open_folder(find_model_folder(path), device)
    )
    if chat_template is None:
        return speaker
    template = read_template(chat_template, "chat_template")
    return replace(speaker, tokenizer=replace(speaker.tokenizer, chat_template=template))


def open_run(
    run: Run,
    settings: Checkpoint,
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    as_trained: bool = False,
) -> Speaker:
    """A checkpoint of a run; adapters are merged."""
    run_dir = require_run_dir(run.dir)
    config, tokenizer = read_config(run_dir), load_run_tokenizer(run_dir)
    require(
        config.model.head in (CAUSAL, SEQ2SEQ),
        f"run.dir={run.dir}: a {HEADS[config.model.head].noun} doesn't write text; measure it by banyan evaluate, or "
        f'use it by banyan export and transformers\' pipeline("{HEADS[config.model.head].pipeline}").',
    )
    checkpoint = find_checkpoint(run_dir, settings.step)
    require_tokenizer_of(checkpoint, read_state(checkpoint), tokenizer)
    in_bf16 = config.has_bf16_weights if as_trained else config.train.in_bf16
    dtype = dtype or (torch.bfloat16 if in_bf16 else torch.float32)
    kind = kind_of_weights(settings)
    model = load_model(config.model, checkpoint, device, dtype, kind=kind, adapt=config.adapt)
    if as_trained and config.autocasts:
        autocast(model, device)
    described = {"checkpoint": str(checkpoint.absolute()), "weights": kind}
    ends = frozenset([tokenizer.end_of_text_id])
    return Speaker(model, tokenizer, config.data.sequence_length, ends, described)


def open_folder(folder: Path, device: torch.device) -> Speaker:
    """A Hugging Face folder, with weights as they are or in 8 bits."""
    require_writer(folder)
    tokenizer = load_tokenizer(folder)
    model = load_folder(folder, device)
    ends = end_tokens_of(folder) | {tokenizer.end_of_text_id}
    described = {"folder": str(folder.absolute())}
    return Speaker(model, tokenizer, context_of(folder), ends, described, as_hugging_face=True)
