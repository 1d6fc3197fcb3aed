"""Continues a prompt with a trained model, printing as it goes; or answers a file of prompts into another.

banyan generate run.dir=runs/NAME prompt="import os" temperature=0.8 max_tokens=200
banyan generate path=HF_FOLDER prompts=questions.jsonl output=answers.jsonl launch.processes=2
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from trainer.config import Generate
from trainer.config.values import check_values
from trainer.errors import require
from trainer.evaluate.sampling import Sampling
from trainer.machine.terminal import write_stream
from trainer.ranks.mesh import Mesh, join
from trainer.run.answer_file import AnswerFile
from trainer.run.prompt_file import PromptFile
from trainer.run.speaker import open_speaker

LONGEST_WAIT_S = 24 * 3600.0  # of a rank that is through for the last one


def main(config: Generate) -> int:
    """The verb: load, then sample to standard output, or to a file."""
    check_values(config)
    require(
        (config.prompts is None) == (config.output is None),
        "prompts and output: give both, a file of prompts and one for the answers, or neither.",
    )
    sampling = Sampling(config.max_tokens, config.temperature, config.top_k, config.top_p, config.seed)
    if config.prompts is not None:
        return answer_file(config, sampling)
    speaker = open_speaker(config.run, config.checkpoint, config.path, chat_template=config.chat_template)
    prompt = config.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    write_stream(itertools.chain([prompt], speaker.continue_prompt(prompt, sampling)), sys.stdout)
    return 0


def answer_file(config: Generate, sampling: Sampling) -> int:
    """Answers what isn't answered yet, this rank its share; rank 0 joins the answers."""
    mesh = join(hang_timeout_s=LONGEST_WAIT_S) if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    device = mesh.device if mesh else None
    speaker = open_speaker(
        config.run, config.checkpoint, config.path, chat_template=config.chat_template, device=device
    )
    prompts = PromptFile(Path(str(config.prompts)).expanduser(), speaker)
    answers = AnswerFile(Path(str(config.output)).expanduser())
    count, numbers = len(prompts.places), prompts.longest_first
    is_whole = mesh.main_finds(lambda: answers.begin(prompts, sampling)) if mesh else answers.begin(prompts, sampling)
    before = count
    if not is_whole:
        there = answers.answered()
        _meet(mesh)  # before anyone adds to them
        before, left = len(there), [number for number in numbers if number not in there]
        rank, size = (mesh.rank, mesh.world_size) if mesh else (0, 1)
        answers.answer(prompts, _share(left, rank, size, config.batch_size), sampling, config.batch_size)
        _meet(mesh)
        if rank == 0:
            answers.finish(count)
    if mesh is None or mesh.is_main:
        earlier = f", {before:,} of them from before" if before else ""
        print(f"{answers.path}: {count:,} answers{earlier}", flush=True)
    if mesh:
        mesh.leave()
    return 0


def _share(numbers: list[int], rank: int, size: int, batch_size: int) -> list[int]:
    """Every `size`-th batch, so that each rank has long prompts and short ones."""
    batches = [numbers[first : first + batch_size] for first in range(0, len(numbers), batch_size)]
    return [number for batch in batches[rank::size] for number in batch]


def _meet(mesh: Mesh | None) -> None:
    if mesh:
        mesh.barrier()
