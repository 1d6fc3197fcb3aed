"""Continues a prompt with a trained model, printing as it goes: the prompt, then what the model makes of it.

banyan generate run.dir=runs/NAME prompt="import os" temperature=0.8 max_tokens=200
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable
from typing import TextIO

import torch

from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.fragment import kind_of_weights
from trainer.checkpoint.state import read_state
from trainer.config import Generate
from trainer.config.values import check_values
from trainer.evaluate.sampling import Sampling, continue_text
from trainer.evaluate.trained_model import load_model
from trainer.machine.terminal import safe
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir, require_tokenizer_of


def main(config: Generate) -> int:
    """The verb: load, then sample to standard output."""
    check_values(config)
    run_dir = require_run_dir(config.run.dir)
    run = read_config(run_dir)
    tokenizer = load_run_tokenizer(run_dir)
    checkpoint = find_checkpoint(run_dir, config.checkpoint.step)
    require_tokenizer_of(checkpoint, read_state(checkpoint), tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if run.train.in_bf16 else torch.float32
    model = load_model(run.model, checkpoint, device, dtype, kind=kind_of_weights(config.checkpoint), adapt=run.adapt)
    prompt = config.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    sampling = Sampling(config.max_tokens, config.temperature, config.top_k, config.top_p, config.seed)
    pieces = continue_text(model, tokenizer, prompt, sampling, context_length=run.data.sequence_length)
    write_stream(itertools.chain([prompt], pieces), sys.stdout)
    return 0


def write_stream(pieces: Iterable[str], out: TextIO) -> None:
    """Writes pieces as they come and ends the line; a terminal gets control characters escaped, a pipe as they are.

    A reader that has gone away (`| head`) ends it quietly.
    """
    terminal = out.isatty()
    try:
        for piece in pieces:
            out.write(safe(piece) if terminal else piece)
            out.flush()
        out.write("\n")
        out.flush()
    except BrokenPipeError:
        # The interpreter flushes once more on its way out: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
