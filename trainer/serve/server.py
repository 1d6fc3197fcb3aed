"""The process: listens (503 while loading), loads, serves until TERM, then drains; a second TERM ends it at once."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
from pathlib import Path
from typing import Any

from trainer.config.serve import Serve, ServeSettings
from trainer.errors import BanyanError, ConfigError
from trainer.serve.control import controlled
from trainer.serve.keys import Client, read_keys
from trainer.serve.service import Service

LOCAL = ("127.0.0.1", "::1", "localhost")
MISSING = "banyan serve needs the packages fastapi, uvicorn and prometheus-client: pip install 'banyan-train[serve]'."
TIDY_S = 5.0


def check_serving(settings: ServeSettings) -> list[Client]:
    """The clients. ConfigError for what would listen wider than is safe, or couldn't listen at all."""
    clients = read_keys(settings.keys) if settings.keys else []
    if settings.host not in LOCAL and not clients:
        raise ConfigError(
            f"serve.host={settings.host}: others could reach it, and anybody could ask; give serve.keys=FILE, or "
            "listen at 127.0.0.1."
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("serve.tls_cert and serve.tls_key: give both, or neither.")
    for key, file in (("tls_cert", settings.tls_cert), ("tls_key", settings.tls_key)):
        if file and not Path(file).expanduser().is_file():
            raise ConfigError(f"serve.{key}={file}: there is no such file.")
    if settings.tls_cert:
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(_path(settings.tls_cert), _path(settings.tls_key))
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(f"serve.tls_cert, serve.tls_key: not a certificate and its key: {error}.") from error
    return clients


def serve(config: Serve) -> int:
    """Serves until it is told to end; the exit code."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(MISSING) from error
    clients = check_serving(config.serve)
    return asyncio.run(_serve(config, clients))


async def _serve(config: Serve, clients: list[Client]) -> int:
    from trainer.serve.front import build_app  # which needs fastapi

    settings = config.serve
    service = Service(config, lambda line: print(line, flush=True))
    server = _uvicorn(build_app(service, clients), settings)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask_to_stop() -> None:
        if stop.is_set():
            print("told again: ending at once", flush=True)
            os._exit(128 + signal.SIGTERM)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    listening = asyncio.create_task(server.serve())
    try:
        async with controlled(service, settings.port):
            await _first_of(listening, stop, service.start())
            if listening.done():
                raise BanyanError(f"serve.port={settings.port}: can't listen at {settings.host}; choose another port.")
            if not stop.is_set():
                scheme = "https" if settings.tls_cert else "http"
                shown = f"[{settings.host}]" if ":" in settings.host else settings.host
                print(f"serving {service.name} at {scheme}://{shown}:{settings.port}/ (API: /v1)", flush=True)
            waiting = asyncio.create_task(stop.wait())
            await asyncio.wait({listening, waiting}, return_when=asyncio.FIRST_COMPLETED)
            print("draining: no more requests are taken", flush=True)
            await service.drain()
    finally:
        server.should_exit = True
        server.force_exit = True
        await asyncio.wait({listening}, timeout=TIDY_S)
        service.close()
    print("ended", flush=True)
    return 0


async def _first_of(listening: asyncio.Task[Any], stop: asyncio.Event, start: Any) -> None:
    """Until the model is there, or the server can't listen or is told to end; an error of the start is raised."""
    starting, stopping = asyncio.create_task(start), asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping, listening}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if starting.done():
        starting.result()
    else:
        starting.cancel()


def _uvicorn(app: Any, settings: ServeSettings) -> Any:
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class PatientProtocol(H11Protocol):
        """Ends connections that don't bring the head of a request within serve.timeout_s."""

        _alarm: asyncio.TimerHandle | None = None

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
            if self._alarm is not None:
                self._alarm.cancel()
            super().connection_lost(exc)

        def _arm(self) -> None:
            self._alarm = self.loop.call_later(settings.timeout_s, self._expire)

        def _expire(self) -> None:
            self._alarm = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    tls: dict[str, Any] = {}
    if settings.tls_cert:
        tls = {"ssl_certfile": _path(settings.tls_cert), "ssl_keyfile": _path(settings.tls_key)}

    class Server(uvicorn.Server):
        def install_signal_handlers(self) -> None:
            """Signals are this process's business."""

        def capture_signals(self) -> Any:
            import contextlib

            return contextlib.nullcontext()

    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=75,
        **tls,
    )
    return Server(config)


def _path(file: str | None) -> str:
    return str(Path(str(file)).expanduser())
