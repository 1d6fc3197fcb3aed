"""The front: OpenAI's API over whichever engine serves, and what a load balancer, Prometheus and people ask.

GET  /                       the page            GET /health /ready     503 until a model is there, and while draining
GET  /v1/models  /card       what serves         GET /metrics           for Prometheus
POST /v1/completions  /v1/chat/completions  /v1/embeddings  /tokenize  /detokenize
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from trainer.data.examples.faults import ExampleFault
from trainer.errors import BanyanError, InputError
from trainer.serve.answers import Answer, answers_of, asked_for
from trainer.serve.door import CLIENT, FAILED, ClientGone, Door
from trainer.serve.event_stream import EventStream, unless_gone
from trainer.serve.gathered import chunks_of, gather_whole
from trainer.serve.keys import Client
from trainer.serve.page import page_routes
from trainer.serve.requests import Refused, parse_chat, parse_completion, parse_embedding, parse_object
from trainer.serve.service import Loaded, Service, beside, in_thread, renderer_of
from trainer.serve.shapes import AnswerShape, usage_of


@dataclass(frozen=True)
class Front:
    """What the routes share."""

    service: Service

    def require_ready(self) -> None:
        """Refused while nothing serves, or nothing more is taken."""
        if self.service.draining:
            raise Refused(503, "The server is shutting down.", kind="server_error", code="draining")
        if self.service.current is None:
            raise Refused(503, "The model is loading.", kind="server_error", code="loading")

    def require_model(self, name: str | None) -> None:
        """Refused for another model's name."""
        known = {self.service.name, self.service.current.model.name if self.service.current else None}
        if name is not None and name not in known:
            text = f"There is no model {name[:100]!r} here; ask for {self.service.name!r}."
            raise Refused(404, text, param="model", code="model_not_found")


def build_app(service: Service, clients: list[Client]) -> Any:
    """The ASGI application. `clients` are those who have a key; none: anybody."""
    front = Front(service)
    app = FastAPI(title="banyan serve", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.service = service
    app.include_router(page_routes(lambda: service.current.model.card() if service.current else "loading"))

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        _refusal(service)(error.status)
        return _error(error)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return _error(FAILED)

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        text = f"{request.method} {request.scope['path'][:100]!r}: {error.detail}."
        _refusal(service)(error.status_code)
        return _error(Refused(error.status_code, text, headers=dict(error.headers or {})))

    @app.get("/health")
    @app.get("/ready")
    async def health() -> Response:
        """200 while requests are answered."""
        front.require_ready()
        return JSONResponse({"status": "ok", "model": service.name})

    @app.get("/metrics")
    async def metrics() -> Response:
        """For Prometheus."""
        content = service.metrics.scrape() if service.metrics else b""
        return Response(content, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> Response:
        """What serves."""
        front.require_ready()
        return JSONResponse({"object": "list", "data": [_model(service)]})

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Response:
        """One of them."""
        front.require_ready()
        front.require_model(name)
        return JSONResponse(_model(service))

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        """Goes on with texts."""
        return await _complete(front, request, is_chat=False)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        """Answers a chat."""
        return await _complete(front, request, is_chat=True)

    @app.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        """Vectors of texts: the mean of the last hidden states."""
        front.require_ready()
        name, texts, as_base64 = parse_embedding(parse_object(await request.body()))
        front.require_model(name)
        loaded = service.take()
        try:
            work = in_thread(loaded.reference.embed, [_plain(text, "input") for text in texts])
            vectors, tokens = await unless_gone(request, work)
        except InputError as error:
            raise Refused(400, str(error), param="input") from error
        finally:
            service.give_back(loaded)
        request.scope[CLIENT].spend(tokens)
        data = [
            {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else vector}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": service.name, "usage": usage})

    @app.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        """The ids of a text (`prompt`), or of a chat (`messages`) with the opening of its answer."""
        front.require_ready()
        body = await request.body()
        loaded = service.current
        assert loaded is not None
        ids = await beside(len(body), ids_of, loaded, parse_object(body))
        return JSONResponse({"count": len(ids), "max_model_len": loaded.context, "tokens": ids})

    @app.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        """The text of ids (`tokens`)."""
        front.require_ready()
        loaded = service.current
        assert loaded is not None
        body = await request.body()
        ids = parse_object(body).get("tokens")
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < loaded.tokenizer.vocab_size for i in ids):
            raise Refused(400, f"tokens must be ids below {loaded.tokenizer.vocab_size:,}.", param="tokens")
        return JSONResponse({"prompt": await beside(len(body), loaded.tokenizer.decode, ids)})

    return Door(app, service.settings, clients, _refusal(service))


def _refusal(service: Service) -> Callable[[int], None]:
    def count(status: int) -> None:
        if service.metrics is not None:
            service.metrics.refuse(status)

    return count


def _error(refused: Refused) -> Response:
    """In ASCII: what is refused may hold half a character."""
    return Response(json.dumps(refused.body()), refused.status, refused.headers, "application/json")


def _model(service: Service) -> dict[str, Any]:
    loaded = service.current
    assert loaded is not None
    return {
        "id": service.name,
        "object": "model",
        "created": int(loaded.since),
        "owned_by": "banyan",
        "root": loaded.model.name,
        "step": loaded.model.step,
        "engine": loaded.engine.name,
        "precision": loaded.engine.precision,
        "max_model_len": loaded.context,
        "chat": _chats(loaded),
    }


def _chats(loaded: Loaded) -> bool:
    """Whether it can be asked chats: its tokenizer has a template."""
    try:
        renderer_of(loaded)
    except InputError:
        return False
    return True


def chat_ids(loaded: Loaded, messages: list[dict[str, Any]]) -> list[int]:
    """The ids of a chat: those of training. Refused where the template doesn't take it."""
    try:
        for message in messages:
            _plain(message["content"], "messages")
        return renderer_of(loaded).prompt_ids(messages)
    except (BanyanError, ExampleFault, ValueError) as error:
        raise Refused(400, str(error), param="messages") from error


def ids_of(loaded: Loaded, content: dict[str, Any]) -> list[int]:
    """The ids of what /tokenize is asked. Refused where it is neither a text nor a chat."""
    if content.get("messages") is not None:
        return chat_ids(loaded, parse_chat({"messages": content["messages"]}).messages)
    if not isinstance(content.get("prompt"), str):
        raise Refused(400, "give prompt, a text, or messages.", param="prompt")
    text = _plain(content["prompt"], "prompt")
    return loaded.texts.prompt_ids(text) if content.get("add_special_tokens", False) else loaded.tokenizer.encode(text)


def _plain(text: str, key: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refused(400, f"{key} holds half a character (a lone surrogate).", param=key) from error
    return text


async def _complete(front: Front, request: Request, *, is_chat: bool) -> Any:
    service = front.service
    front.require_ready()
    body = await request.body()
    content = parse_object(body)
    wanted = parse_chat(content) if is_chat else parse_completion(content)
    front.require_model(wanted.model)
    loaded = service.take()
    try:
        asked = await asked_for(service, loaded, wanted, chat_ids, size=len(body))
        shape = AnswerShape(is_chat, service.name, wanted.top is not None, loaded.tokenizer)
        client = request.scope[CLIENT]
        prompt_tokens = sum(len(each.ask.ids) for each in asked[:: wanted.n])
        client.spend(prompt_tokens)
        answers = answers_of(service, loaded, asked)
        if not wanted.stream:
            whole = await unless_gone(request, gather_whole(answers, asked))
            client.spend(sum(each.count for each in whole))
            choices = [shape.choice(each.index, each.text, each.tokens, each.end) for each in whole]
            return JSONResponse(
                shape.whole(choices, usage_of(prompt_tokens, sum(each.count for each in whole))),
            )
        first = await unless_gone(request, _first(answers))
        stream = chunks_of(shape, first, answers, asked, client, prompt_tokens, include_usage=wanted.include_usage)
        loaded.users += 1  # the stream's
        return EventStream(stream, lambda: service.give_back(loaded))
    finally:
        service.give_back(loaded)


async def _first(answers: AsyncGenerator[Answer]) -> Answer:
    return await anext(answers)


def _packed(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
