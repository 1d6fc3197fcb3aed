"""The process: listens (503 while loading), loads, serves until TERM, then drains; a second TERM ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from typing import Any

from trainer.config.launch import Launch
from trainer.config.serve import Serve
from trainer.errors import ConfigError
from trainer.serve.control import controlled
from trainer.serve.keys import Client, read_keys
from trainer.serve.listener import check_certificate, listen, server_of
from trainer.serve.service import Service

LOCAL = ("127.0.0.1", "::1", "localhost")
MISSING = "banyan serve needs the packages fastapi, uvicorn and prometheus-client: pip install 'banyan-train[serve]'."
OF_RANKS = ("processes", "threads", "device", "check_memory", "max_failures", "resize_check_s", "start_timeout_s")
TIDY_S = 5.0
SAME_S = 1.0
"""Signals that come together are one: SLURM tells each process of a job, and the job's script tells it again."""


def check_serving(config: Serve) -> list[Client]:
    """The clients. ConfigError for what would listen wider than is safe, or couldn't listen at all."""
    settings = config.serve
    for name in OF_RANKS:
        value = getattr(config.launch, name)
        if value != getattr(Launch(), name):
            mend = "use serve.threads" if name == "threads" else "leave it out"
            raise ConfigError(f"launch.{name}={value}: it is about ranks, and serve has none; {mend}.")
    clients = read_keys(settings.keys) if settings.keys else []
    if settings.host not in LOCAL and not clients:
        raise ConfigError(
            f"serve.host={settings.host}: others could reach it, and anybody could ask; give serve.keys=FILE, or "
            "listen at 127.0.0.1."
        )
    check_certificate(settings)
    return clients


def require_front() -> None:
    """ConfigError, naming the extra, where what the front needs isn't installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(MISSING) from error


def serve(config: Serve) -> int:
    """Serves until it is told to end; the exit code."""
    require_front()
    clients = check_serving(config)
    return asyncio.run(_serve(config, clients, listen(config.serve)))


async def _serve(config: Serve, clients: list[Client], sockets: list[socket.socket]) -> int:
    from trainer.serve.front import build_app  # which needs fastapi

    settings = config.serve
    service = Service(config, lambda line: print(line, flush=True))
    server = server_of(build_app(service, clients), settings)
    stop, told = asyncio.Event(), 0.0
    loop = asyncio.get_running_loop()

    def ask_to_stop() -> None:
        nonlocal told
        if not stop.is_set():
            told = loop.time()
            stop.set()
        elif loop.time() - told > SAME_S:
            print("told again: ending at once", flush=True)
            os._exit(128 + signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask_to_stop)
    listening = asyncio.create_task(server.serve(sockets))
    try:
        async with controlled(service, settings.port):
            await _first_of(listening, stop, service.start())
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
        for number in (signal.SIGTERM, signal.SIGINT):
            # It ends already, with the exit code of its own that the loop's end would leave to the signal
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
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
