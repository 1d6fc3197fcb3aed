"""Talks with a trained model: what you type is a user's turn, what it prints its answer.

banyan chat run.dir=runs/NAME
banyan chat path=HF_FOLDER prompt="one question" temperature=0
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trainer.config import Chat
from trainer.config.values import check_values
from trainer.data.examples.faults import ExampleFault
from trainer.errors import InputError
from trainer.evaluate.sampling import Sampling
from trainer.machine.terminal import write_stream
from trainer.run.speaker import Speaker, open_speaker


def main(config: Chat) -> int:
    """The verb: answers `prompt`, or each line of standard input in turn."""
    check_values(config)
    speaker = open_speaker(config.run, config.checkpoint, config.path, chat_template=config.chat_template)
    sampling = Sampling(config.max_tokens, config.temperature, config.top_k, config.top_p, config.seed)
    messages = [{"role": "system", "content": config.system}] if config.system else []
    for said in [config.prompt] if config.prompt else _lines():
        messages.append({"role": "user", "content": said.encode("utf-8", "surrogateescape").decode("utf-8", "replace")})
        messages.append({"role": "assistant", "content": _answer(speaker, messages, sampling)})
    return 0


def _answer(speaker: Speaker, messages: list[dict[str, str]], sampling: Sampling) -> str:
    """Prints the answer to a chat as it comes; all of it."""
    found: list[str] = []

    def pieces() -> Iterator[str]:
        for piece in speaker.answer(messages, sampling):
            found.append(piece)
            yield piece

    try:
        write_stream(pieces(), sys.stdout)
    except ExampleFault as fault:
        raise InputError(f"{fault}; mend the chat template, or what it is given.") from fault
    return "".join(found)


def _lines() -> Iterator[str]:
    """What is typed, line by line; a terminal is asked for it."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\n")
