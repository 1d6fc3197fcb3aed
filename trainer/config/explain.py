"""What `banyan explain` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.encryption import KeyOfData
from trainer.config.knobs import knob, part
from trainer.config.run import Checkpoint, Run

COMMANDS = ("prompt", "neighbours", "similarity", "retrieval")
PATH = "A Hugging Face folder or hf://OWNER/NAME@REVISION, in the place of run.dir; of an encoder, too, but for prompt."


@dataclass
class Explain:
    """Configuration of `banyan explain`."""

    command: str = knob(
        "prompt",
        "What is explained: a prompt inside the model; the neighbours of a word; the similarity of two texts; the "
        "retrieval of texts by their embeddings. The word alone after `explain` means the same.",
        common=True,
        choices=COMMANDS,
    )
    run: Run = part(Run)
    data: KeyOfData = part(KeyOfData)
    checkpoint: Checkpoint = part(Checkpoint)
    path: Optional[str] = knob(None, PATH, common=True)
    prompt: str = knob("", "Text that the model reads; taken as it is, no quoting for Hydra needed.", common=True)
    target: Optional[str] = knob(
        None, "Token after the prompt whose loss is differentiated; by default the prompt's last.", common=True
    )
    target_position: Optional[int] = knob(None, "Or which of the prompt's tokens; they count from 0.", low=1)
    tokens: int = knob(
        128,
        "Last tokens of the prompt of which lens and attention maps are written, fewer where the model has many heads.",
        "tokens",
        common=True,
        low=1,
        high=1024,
    )
    top_k: int = knob(10, "Likeliest tokens of each layer, or nearest neighbours.", common=True, low=1, high=1000)
    word: str = knob("", "Word whose neighbours are wanted; with a blank before it, it is another token.", common=True)
    a: str = knob("", "One text to compare.", common=True)
    b: str = knob("", "The other.", common=True)
    pairs: Optional[str] = knob(None, 'JSON lines, each {"query": text, "positive": text}.', common=True)
    recall_at: list[int] = knob([1, 5, 10], "Ranks up to which a positive counts as found.", common=True)
    embedding: str = knob(
        "auto",
        "Vectors that are compared: of tokens before the first layer (input) or of the head (output), or the last "
        "hidden states; texts by their mean. auto: input for neighbours, else hidden.",
        common=True,
        choices=("auto", "input", "output", "hidden"),
    )
    sort: str = knob("cosine", "Measure by which neighbours are sorted.", choices=("cosine", "pearson"))
    batch_size: int = knob(32, "Texts that are embedded together.", "texts", low=1)
    output: Optional[str] = knob(
        None,
        "Folder of what is written; by default explain/NAME in the run directory, or here for a folder.",
        common=True,
    )
