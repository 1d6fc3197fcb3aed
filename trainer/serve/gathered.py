"""A request's answers, of stretches that come in any order: whole, or as the chunks of a stream."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from trainer.serve.answers import Answer, AskedAnswer
from trainer.serve.keys import Client
from trainer.serve.shapes import AnswerShape, usage_of


@dataclass
class WholeAnswer:
    """One of a request's answers, from its beginning to its end."""

    index: int
    text: str = ""
    tokens: tuple[Any, ...] = ()
    count: int = 0
    end: str = "stop"


async def gather_whole(answers: AsyncGenerator[Answer], asked: list[AskedAnswer]) -> list[WholeAnswer]:
    """All of all answers."""
    found = [WholeAnswer(each.index, each.echo) for each in asked]
    async with contextlib.aclosing(answers) as coming:
        async for answer in coming:
            whole = found[answer.index]
            whole.text += answer.text
            whole.tokens += answer.tokens
            whole.count += answer.count
            whole.end = answer.end or whole.end
    return found


async def chunks_of(
    shape: AnswerShape,
    first: Answer,
    answers: AsyncGenerator[Answer],
    asked: list[AskedAnswer],
    client: Client,
    prompt_tokens: int,
    *,
    include_usage: bool,
) -> AsyncGenerator[dict[str, Any]]:
    """The chunks of a stream, from the answers' stretches."""
    offsets, tokens = [0] * len(asked), 0
    for each in asked:
        if shape.is_chat:
            yield shape.first(each.index)
        elif each.echo:
            yield shape.chunk(each.index, each.echo, (), None, 0)
            offsets[each.index] = len(each.echo)

    async def all_of_it() -> AsyncIterator[Answer]:
        yield first
        async for answer in answers:
            yield answer

    try:
        async for answer in all_of_it():
            tokens += answer.count
            if answer.text or answer.tokens or answer.end:
                yield shape.chunk(answer.index, answer.text, answer.tokens, answer.end, offsets[answer.index])
            offsets[answer.index] += len(answer.text)
        if include_usage:
            yield shape.usage(usage_of(prompt_tokens, tokens))
    finally:
        client.spend(tokens)
        await answers.aclose()
