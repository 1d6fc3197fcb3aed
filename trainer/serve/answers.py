"""From a request to its answers: ids, sampling, and each one's text as far as stops and moderation let it through."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from trainer.serve.engines.engine import Ask, EngineBusy, TokenInfo
from trainer.serve.metrics import AnswerTiming
from trainer.serve.requests import CompletionRequest, Refused
from trainer.serve.service import Loaded, Service, beside, in_thread
from trainer.serve.stops import StopText

T = TypeVar("T")

CONTENT_FILTER = "content_filter"


@dataclass(frozen=True)
class AskedAnswer:
    """One of a request's answers. `echo` is what is given back before it."""

    index: int
    ask: Ask
    stops: tuple[str, ...]
    echo: str
    timing: AnswerTiming


@dataclass(frozen=True)
class Answer:
    """A stretch of one of the answers; `count` tokens were made for it. `end` in the last one."""

    index: int
    text: str
    tokens: tuple[TokenInfo, ...]
    count: int
    end: str | None


async def asked_for(
    service: Service,
    loaded: Loaded,
    wanted: CompletionRequest,
    chat_ids: Callable[[Loaded, list[dict[str, Any]]], list[int]],
    *,
    size: int,
) -> list[AskedAnswer]:
    """Every answer that a request of `size` bytes asks for: each prompt's `n`, one after the other. Refused where it
    can't be."""
    assert service.metrics is not None
    is_chat = bool(wanted.messages)
    if service.moderation is not None and wanted.top is not None:
        raise Refused(400, "logprobs: this server moderates answers, and gives none.", param="logprobs")
    prompts = await beside(size, _prompts_of, loaded, wanted, chat_ids)
    ends = loaded.texts.chat_ends if is_chat else loaded.texts.ends
    said = (
        "\n".join(message["content"] for message in wanted.messages)
        if is_chat
        else "\n".join(text for _, text in prompts)
    )
    if service.moderation is not None and (reason := await _judged(service, service.moderation.refusal_of, said)):
        raise Refused(400, reason, code=CONTENT_FILTER, param="messages" if is_chat else "prompt")
    if service.settings.log_prompts:
        print(f"serve: asked {said!r}", flush=True)
    found: list[AskedAnswer] = []
    for ids, text in prompts:
        room = loaded.context - len(ids)
        if room < 1:
            raise Refused(
                400, f"{len(ids):,} tokens are asked, and the model sees {loaded.context:,}, with the answer.",
                param="messages" if is_chat else "prompt", code="context_length_exceeded",
            )  # fmt: skip
        if service.drift is not None:
            service.drift.note(loaded.tokenizer.decode(ids) if is_chat else text, ids)
        usual = service.settings.max_tokens if is_chat else 16
        most = min(room, usual if wanted.max_tokens is None else wanted.max_tokens)
        for number in range(wanted.n):
            timing = service.metrics.begin(len(ids))
            ask = Ask(
                ids=ids,
                max_tokens=most,
                ends=ends,
                temperature=wanted.temperature,
                top_p=wanted.top_p,
                top_k=wanted.top_k,
                seed=None if wanted.seed is None else wanted.seed + number,
                logprobs=wanted.top is not None,
                top=wanted.top or 0,
                started=timing.started,
            )
            found.append(AskedAnswer(len(found), ask, wanted.stops, text if wanted.echo else "", timing))
    return found


def _prompts_of(
    loaded: Loaded, wanted: CompletionRequest, chat_ids: Callable[[Loaded, list[dict[str, Any]]], list[int]]
) -> list[tuple[list[int], str]]:
    if wanted.messages:
        return [(chat_ids(loaded, wanted.messages), wanted.messages[-1]["content"])]
    return [_prompt_ids(loaded, prompt) for prompt in wanted.prompts]


def _prompt_ids(loaded: Loaded, prompt: str | list[int]) -> tuple[list[int], str]:
    if isinstance(prompt, str):
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refused(400, "prompt holds half a character (a lone surrogate).", param="prompt") from error
        return loaded.texts.prompt_ids(prompt), prompt
    size = loaded.tokenizer.vocab_size
    if not all(0 <= number < size for number in prompt):
        raise Refused(400, f"prompt: ids must be below {size:,}.", param="prompt")
    return list(prompt), loaded.tokenizer.decode(prompt)


async def _judged(service: Service, judge: Callable[[str], T], text: str) -> T:
    """What moderation says, which with a classifier takes a thread's time."""
    assert service.moderation is not None
    return judge(text) if service.moderation.is_quick else await in_thread(judge, text)


async def answers_of(service: Service, loaded: Loaded, asked: list[AskedAnswer]) -> AsyncGenerator[Answer]:
    """All answers at the same time, stretch by stretch as they come. Left before the end, all are cancelled."""
    queue: asyncio.Queue[Answer | Exception | None] = asyncio.Queue(maxsize=64)

    async def pump(each: AskedAnswer) -> None:
        try:
            async with contextlib.aclosing(_answer(service, loaded, each)) as coming:
                async for answer in coming:
                    await queue.put(answer)
        except Exception as error:
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(each)) for each in asked]
    left = len(tasks)
    try:
        while left:
            answer = await queue.get()
            if isinstance(answer, EngineBusy):
                raise Refused(
                    503, "Too many requests wait; try again.", kind="server_error", headers={"Retry-After": "1"}
                )
            if isinstance(answer, TimeoutError):
                raise Refused(504, f"The answer took longer than {service.settings.answer_s:g} s.", kind="server_error")
            if isinstance(answer, Exception):
                raise answer
            if answer is None:
                left -= 1
            else:
                yield answer
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _answer(service: Service, loaded: Loaded, asked: AskedAnswer) -> AsyncGenerator[Answer]:
    stop = StopText(asked.stops)
    guard = service.moderation.begin() if service.moderation is not None else None
    reason = "abort"
    try:
        if asked.ask.max_tokens == 0:
            reason = "length"
            yield Answer(asked.index, "", (), 0, "length")
            return
        async with contextlib.aclosing(service.answer(loaded, asked.ask)) as pieces:
            async for piece in pieces:
                asked.timing.piece(len(piece.tokens))
                text = stop.feed(piece.text)
                ended = piece.end is not None or stop.found
                if ended and not stop.found:
                    text += stop.finish()
                if guard is not None:
                    text = await _judged(service, guard.finish if ended else guard.feed, text)
                end = "stop" if stop.found else piece.end
                if guard is not None and guard.tripped:
                    end = CONTENT_FILTER
                if service.settings.log_prompts and text:
                    print(f"serve: answered {text!r}", flush=True)
                tokens = piece.tokens if asked.ask.logprobs else ()
                yield Answer(asked.index, text, tokens, len(piece.tokens), end)
                if end is not None:
                    reason = end
                    return
    except (EngineBusy, TimeoutError):
        reason = "refused"
        raise
    except Exception:
        reason = "error"
        raise
    finally:
        asked.timing.end(reason)
