"""Continues a prompt with a trained model, printing as it goes; or answers a file of prompts into another.

banyan generate run.dir=runs/NAME prompt="import os" temperature=0.8 max_tokens=200
banyan generate path=HF_FOLDER prompts=questions.jsonl output=answers.jsonl
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from trainer.config import Generate
from trainer.config.values import check_values
from trainer.errors import require
from trainer.evaluate.sampling import Sampling
from trainer.machine.terminal import write_stream
from trainer.run.prompt_file import PromptFile
from trainer.run.speaker import open_speaker


def main(config: Generate) -> int:
    """The verb: load, then sample to standard output, or to a file."""
    check_values(config)
    require(
        (config.prompts is None) == (config.output is None),
        "prompts and output: give both, a file of prompts and one for the answers, or neither.",
    )
    speaker = open_speaker(config.run, config.checkpoint, config.path)
    sampling = Sampling(config.max_tokens, config.temperature, config.top_k, config.top_p, config.seed)
    if config.prompts is not None and config.output is not None:
        output = Path(config.output).expanduser()
        before, now = PromptFile(Path(config.prompts).expanduser(), output).answer_all(speaker, sampling)
        print(f"{output}: {now:,} answers{f', {before:,} of them from before' if before else ''}")
        return 0
    prompt = config.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    write_stream(itertools.chain([prompt], speaker.continue_prompt(prompt, sampling)), sys.stdout)
    return 0
