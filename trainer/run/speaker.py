"""A model that answers: opened from a run directory or a Hugging Face folder, with its tokenizer and chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import WEIGHT, kind_of_weights
from trainer.checkpoint.state import read_state
from trainer.config import Checkpoint, Model, Run
from trainer.data.examples.render import Renderer
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.errors import BanyanError, ConfigError, require
from trainer.evaluate.sampling import Sampling, decode_stream, generate_tokens
from trainer.evaluate.trained_model import load_model
from trainer.model.build import LanguageModel, build_empty, parameter_shapes
from trainer.model.hugging_face.config_json import read_config_json
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.model.hugging_face.inner_folder import open_inner_weights
from trainer.model.hugging_face.tensor_files import FolderReader
from trainer.model.region import Region, Source
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir, require_tokenizer_of

POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx")
USUAL_CONTEXT = 2048  # tokens, where a folder doesn't say


@dataclass(frozen=True)
class Speaker:
    """A model in evaluation mode; it sees `context_length` tokens at most."""

    model: LanguageModel
    tokenizer: Tokenizer
    context_length: int

    @cached_property
    def renderer(self) -> Renderer:
        """How chats become ids, the same as prepare's."""
        return Renderer(self.tokenizer)

    def continue_prompt(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """What follows a text, in pieces that end with whole characters."""
        ids = self.tokenizer.encode(prompt) or [self.tokenizer.end_of_text_id]
        return self._pieces(ids, sampling, [self.tokenizer.end_of_text_id])

    def answer(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling) -> Iterator[str]:
        """The answer to a chat, in pieces; it ends at the token by which the template ends answers."""
        return self._pieces(self.renderer.prompt_ids(messages), sampling, self.renderer.turn_ends)

    def _pieces(self, ids: list[int], sampling: Sampling, ends: Sequence[int]) -> Iterator[str]:
        new = generate_tokens(
            self.model,
            ids,
            sampling,
            context_length=self.context_length,
            end_of_text=self.tokenizer.end_of_text_id,
            also_at=ends,
        )
        return decode_stream(self.tokenizer, ids, new)


def open_speaker(run: Run, checkpoint: Checkpoint, path: str | None) -> Speaker:
    """What run.dir or `path` names. ConfigError unless it is just one of them."""
    require(
        (run.dir is None) != (path is None),
        "run.dir and path: give one of them, a run directory or a Hugging Face folder.",
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return open_run(run, checkpoint, device) if path is None else open_folder(Path(path).expanduser(), device)


def open_run(run: Run, settings: Checkpoint, device: torch.device) -> Speaker:
    """A checkpoint of a run; adapters are merged."""
    run_dir = require_run_dir(run.dir)
    config, tokenizer = read_config(run_dir), load_run_tokenizer(run_dir)
    checkpoint = find_checkpoint(run_dir, settings.step)
    require_tokenizer_of(checkpoint, read_state(checkpoint), tokenizer)
    dtype = torch.bfloat16 if config.train.in_bf16 else torch.float32
    kind = kind_of_weights(settings)
    model = load_model(config.model, checkpoint, device, dtype, kind=kind, adapt=config.adapt)
    return Speaker(model, tokenizer, config.data.sequence_length)


@torch.no_grad()
def open_folder(folder: Path, device: torch.device) -> Speaker:
    """A Hugging Face folder: run by our decoder where that is its architecture, else by Hugging Face's own code."""
    if not folder.is_dir():
        raise ConfigError(f"path={folder}: there is no such folder, and nothing is downloaded; fetch the model first.")
    config, tokenizer = read_config_json(folder), load_tokenizer(folder)
    settings, weights = _weights_of(folder)
    model = build_empty(settings, device, torch.float32)
    for name, parameter in model.named_parameters():
        shape = tuple(parameter.shape)
        parameter.copy_(weights(name, WEIGHT, Region.of_slice(shape, None)).view(shape))
    positions = next((config[key] for key in POSITIONS if isinstance(config.get(key), int)), USUAL_CONTEXT)
    return Speaker(model.eval(), tokenizer, positions)


def _weights_of(folder: Path) -> tuple[Model, Source]:
    try:
        settings = Model(**find_init_folder(str(folder)).architecture)
        return settings, FolderReader(folder).read
    except BanyanError:
        settings = Model(path=str(folder))
        return settings, open_inner_weights(settings, parameter_shapes(settings))[0]
