"""Where the server listens: a port that is taken before a model is loaded, and connections with bounds.

Whatever doesn't speak HTTP gets an error in OpenAI's shape, too, and a connection that brings no request is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from trainer.config.serve import ServeSettings
from trainer.errors import ConfigError
from trainer.serve.requests import Refused

BACKLOG = 2048
KEEP_ALIVE_S = 75
NO_HTTP = Refused(400, "This is no HTTP request, or its head is longer than 64 KiB.")
MOST_HEAD_BYTES = 65536


def listen(settings: ServeSettings) -> list[socket.socket]:
    """Sockets that listen at serve.host and serve.port. ConfigError where that can't be."""
    host, port = settings.host, settings.port
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"serve.host={host}: no address ({error.strerror}); give one of this machine's.") from error
    found: list[socket.socket] = []
    refused: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in addresses):
        try:
            found.append(socket.create_server(address[:2], family=family, backlog=BACKLOG))
        except OSError as error:  # "localhost" has an address in IPv6 even where the machine has none
            if refused is None or error.errno == errno.EADDRINUSE:
                refused = error
    if refused is None or (found and refused.errno != errno.EADDRINUSE):
        return found
    for each in found:
        each.close()
    if refused.errno == errno.EADDRNOTAVAIL:
        raise ConfigError(f"serve.host={host}: not an address of this machine; give one that is.") from refused
    reason = os.strerror(refused.errno or 0)
    raise ConfigError(
        f"serve.port={port}: can't listen at {host} ({reason}); choose another port, or end what has it."
    ) from refused


def check_certificate(settings: ServeSettings) -> None:
    """ConfigError for files of TLS that are no certificate and its key."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("serve.tls_cert and serve.tls_key: give both, or neither.")
    for key, file in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        if file and not Path(file).expanduser().is_file():
            raise ConfigError(f"serve.{key}={file}: there is no such file.")
    if settings.tls_cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:  # with a password, or OpenSSL would ask for that of an encrypted key on the terminal
            context.load_cert_chain(_path(settings.tls_cert), _path(settings.tls_key), password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise ConfigError(
                f"serve.tls_cert={settings.tls_cert}, serve.tls_key={settings.tls_key}: not a certificate and its "
                f"unencrypted key in PEM ({error})."
            ) from error


def server_of(app: Any, settings: ServeSettings) -> Any:
    """uvicorn's server of an application, which leaves signals and logs to us. Needs uvicorn."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedProtocol(H11Protocol):
        """A connection that must bring the head of a request within serve.timeout_s, and read its end in that time."""

        _alarm: asyncio.TimerHandle | None = None
        _end: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                if self._alarm is not None:
                    self._alarm.cancel()
                self._alarm = None
            elif self._alarm is None:
                self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            for each in (self._alarm, self._end):
                if each is not None:
                    each.cancel()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            """An answer was written. What is closing now would wait for ever for a client that doesn't read it."""
            super().on_response_complete()
            if self.transport.is_closing() and self._end is None:
                self._end = self.loop.call_later(settings.timeout_s, self.transport.abort)

        def timeout_keep_alive_handler(self) -> None:
            """Nothing more is asked; what hasn't been read until now isn't waited for."""
            if not self.transport.is_closing():
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            """Called for what is no HTTP, also in the middle of an answer: then nothing more can be said."""
            body = json.dumps(NO_HTTP.body()).encode()
            if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
                head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
                self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
            self.transport.close()

        def _arm(self) -> None:
            self._alarm = self.loop.call_later(settings.timeout_s, self._expire)

        def _expire(self) -> None:
            self._alarm = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.abort()

    class Server(uvicorn.Server):
        """Signals are this process's business."""

        def capture_signals(self) -> Any:
            return contextlib.nullcontext()

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    tls: dict[str, Any] = {}
    if settings.tls_cert:
        tls = {"ssl_certfile": _path(settings.tls_cert), "ssl_keyfile": _path(settings.tls_key)}
    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        h11_max_incomplete_event_size=MOST_HEAD_BYTES,
        **tls,
    )
    return Server(config)


def _path(file: str | None) -> str:
    return str(Path(str(file)).expanduser())
