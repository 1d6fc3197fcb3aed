"""Requests of OpenAI's API, checked: what a client may ask, as plain values. Anything else is refused by name."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

MOST_ANSWERS = 16  # n
MOST_PROMPTS = 256
MOST_STOPS = 16
MOST_TOP = 20
MOST_MESSAGES = 4096
ROLES = ("system", "user", "assistant", "tool")

# Keys that change nothing here, or are about the client: taken and left aside at any value.
ASIDE = ("user", "metadata", "store", "service_tier", "prompt_cache_key", "safety_identifier", "parallel_tool_calls")
# Keys that are only understood at the value that changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0, None),
    "presence_penalty": (0, None),
    "logit_bias": ({}, None),
    "best_of": (1, None),
    "suffix": ("", None),
    "tools": ([], None),
    "tool_choice": ("none", None),
    "functions": ([], None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "reasoning_effort": (None,),
    "verbosity": (None,),
}


class Refused(Exception):
    """A request that isn't answered: an HTTP status and OpenAI's error, whose `param` names the key."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", param: str | None = None,
        code: str | None = None, headers: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """OpenAI's shape of an error."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class CompletionRequest:
    """What /v1/completions and /v1/chat/completions have in common. `top` is None without log-probabilities."""

    model: str | None
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    n: int
    seed: int | None
    stops: tuple[str, ...]
    top: int | None
    stream: bool
    include_usage: bool
    prompts: list[str | list[int]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    echo: bool = False


def parse_object(body: bytes) -> dict[str, Any]:
    """A request's JSON. Refused where it isn't an object in UTF-8."""
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise Refused(400, f"The body is not UTF-8: {error.reason} at byte {error.start}.") from error
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is not JSON: {str(error)[:200]}.") from error
    if not isinstance(found, dict):
        raise Refused(400, "The body must be a JSON object.")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def parse_completion(content: dict[str, Any]) -> CompletionRequest:
    """A request of /v1/completions."""
    wanted = _Reader(content)
    top = wanted.whole("logprobs", 0, MOST_TOP, None)
    common = _common(wanted, wanted.whole("max_tokens", 0, 2**31, 16), top)
    prompts = _prompts(wanted.take("prompt", ""), "prompt")
    echo = wanted.flag("echo")
    wanted.end()
    if len(prompts) * common["n"] > MOST_PROMPTS:
        raise Refused(
            400, f"{len(prompts)} prompts, {common['n']} answers each: at most {MOST_PROMPTS} in all.", param="n"
        )
    if echo and top is not None:
        raise Refused(400, "echo with logprobs: log-probabilities of prompts aren't given.", param="echo")
    return CompletionRequest(prompts=prompts, echo=echo, **common)


def parse_chat(content: dict[str, Any]) -> CompletionRequest:
    """A request of /v1/chat/completions."""
    wanted = _Reader(content)
    top = wanted.whole("top_logprobs", 0, MOST_TOP, None)
    if not wanted.flag("logprobs"):
        if top:
            raise Refused(400, "top_logprobs needs logprobs=true.", param="top_logprobs")
        top = None
    elif top is None:
        top = 0
    longest = wanted.whole("max_completion_tokens", 0, 2**31, None)
    older = wanted.whole("max_tokens", 0, 2**31, None)
    common = _common(wanted, older if longest is None else longest, top)
    messages = _messages(wanted.take("messages", None))
    wanted.end()
    return CompletionRequest(messages=messages, **common)


def parse_embedding(content: dict[str, Any]) -> tuple[str | None, list[str], bool]:
    """A request of /v1/embeddings: the model, the texts, and whether base64 is wanted."""
    wanted = _Reader(content)
    model = wanted.text("model")
    texts = _prompts(wanted.take("input", None), "input")
    form = wanted.take("encoding_format", "float")
    if form not in ("float", "base64"):
        raise Refused(400, "encoding_format must be float or base64.", param="encoding_format")
    if wanted.take("dimensions", None) is not None:
        raise Refused(400, "dimensions: embeddings have the model's own; leave it out.", param="dimensions")
    wanted.end()
    if any(not isinstance(text, str) or not text for text in texts):
        raise Refused(400, "input must be a text that isn't empty, or a list of such.", param="input")
    return model, [str(text) for text in texts], form == "base64"


def _common(wanted: _Reader, max_tokens: int | None, top: int | None) -> dict[str, Any]:
    options = wanted.take("stream_options", None)
    if options is not None and not isinstance(options, dict):
        raise Refused(400, "stream_options must be an object.", param="stream_options")
    return {
        "model": wanted.text("model"),
        "max_tokens": max_tokens,
        "temperature": wanted.number("temperature", 0.0, 100.0, 1.0),
        "top_p": wanted.number("top_p", 0.0, 1.0, 1.0),
        "top_k": max(0, wanted.whole("top_k", -1, 2**31, 0) or 0),
        "n": wanted.whole("n", 1, MOST_ANSWERS, 1),
        "seed": wanted.whole("seed", -(2**63), 2**63 - 1, None),
        "stops": _stops(wanted.take("stop", None)),
        "top": top,
        "stream": wanted.flag("stream"),
        "include_usage": bool((options or {}).get("include_usage")),
    }


class _Reader:
    """Takes keys out of a request; those that are left are refused."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._left = dict(content)

    def take(self, key: str, default: Any) -> Any:
        found = self._left.pop(key, None)
        return default if found is None else found

    def text(self, key: str) -> str | None:
        found = self.take(key, None)
        if found is not None and not isinstance(found, str):
            raise Refused(400, f"{key} must be a text.", param=key)
        return found

    def flag(self, key: str) -> bool:
        found = self.take(key, False)
        if not isinstance(found, bool):
            raise Refused(400, f"{key} must be true or false.", param=key)
        return found

    def whole(self, key: str, low: int, high: int, default: int | None) -> int | None:
        found = self.take(key, default)
        if found is not None and (type(found) is not int or not low <= found <= high):
            raise Refused(400, f"{key} must be a whole number from {low} to {high}.", param=key)
        return found

    def number(self, key: str, low: float, high: float, default: float) -> float:
        found = self.take(key, default)
        if type(found) not in (int, float) or not low <= found <= high:  # which NaN isn't
            raise Refused(400, f"{key} must be a number from {low:g} to {high:g}.", param=key)
        return float(found)

    def end(self) -> None:
        for key, value in self._left.items():
            if key in ASIDE:
                continue
            if key not in NEUTRAL:
                raise Refused(400, f"{key[:60]}: this server doesn't know it; leave it out.", param=key[:60])
            if value not in NEUTRAL[key]:
                raise Refused(400, f"{key}: this server doesn't do that; leave it out.", param=key)


def _stops(found: Any) -> tuple[str, ...]:
    stops = [found] if isinstance(found, str) else [] if found is None else found
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise Refused(400, "stop must be a text that isn't empty, or a list of such.", param="stop")
    if len(stops) > MOST_STOPS:
        raise Refused(400, f"stop: at most {MOST_STOPS} sequences.", param="stop")
    return tuple(stops)


def _prompts(found: Any, key: str) -> list[str | list[int]]:
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and found and all(type(each) is int for each in found):
        return [found]
    if isinstance(found, list) and 0 < len(found) <= MOST_PROMPTS:
        if all(isinstance(each, str) for each in found):
            return list(found)
        if all(isinstance(each, list) and each and all(type(i) is int for i in each) for each in found):
            return list(found)
    what = "a text, a list of texts, a list of token ids, or a list of such lists"
    raise Refused(400, f"{key} must be {what} (at most {MOST_PROMPTS}).", param=key)


def _messages(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not 0 < len(found) <= MOST_MESSAGES:
        raise Refused(400, f"messages must be a list of 1 to {MOST_MESSAGES} messages.", param="messages")
    messages = []
    for number, message in enumerate(found):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(400, f"{where} must have a role and content.", param=where)
        content = message.get("content")
        if isinstance(content, list):
            if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
                raise Refused(400, f"{where}: only parts of type text are understood.", param=where)
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            raise Refused(400, f"{where}: content must be a text.", param=where)
        role = "system" if message["role"] == "developer" else message["role"]
        if role not in ROLES:
            raise Refused(400, f"{where}: the role {role[:40]!r} isn't known; use {', '.join(ROLES)}.", param=where)
        messages.append({"role": role, "content": content})
    return messages
