"""Where ranks meet: a store that rank 0 has, and the network interface that their sockets listen on.

Neither asks who comes. What all ranks on one machine need is reached from this machine alone, one rank needs no store
that listens, and on a cluster both keep to the interface that leads to MASTER_ADDR.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psutil
import torch.distributed

from trainer.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1")
ROLL_POLL_S = 0.05
HEARD_S = 5.0  # in which every rank hears who has come
BACKLOG = 4096  # of connections that rank 0 hasn't taken yet: thousands of ranks come at once


def is_one_machine(environment: Mapping[str, str]) -> bool:
    """Whether all ranks run here, as far as who started them has said."""
    world_size = environment["WORLD_SIZE"]
    return world_size == "1" or environment.get("LOCAL_WORLD_SIZE") == world_size


def open_store(
    environment: Mapping[str, str], timeout: timedelta, *, waits_for_all: bool = True
) -> torch.distributed.Store:
    """The store that all ranks share, for the group that RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe.

    Rank 0's is there once all ranks have come, or at once if it isn't to wait for them.
    ConfigError if MASTER_ADDR or MASTER_PORT can't be: no such name, a port that another process has.
    """
    if environment["WORLD_SIZE"] == "1":
        return torch.distributed.HashStore()
    host, port = environment["MASTER_ADDR"], _port(environment)
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun listens in rank 0's place
        return _connect(host, port, environment, timeout)
    if is_one_machine(environment):
        host = _loopback() or host
    if environment["RANK"] != "0":
        return _connect(host, port, environment, timeout)
    server = {"is_master": True, "master_listen_fd": _listen(host, port).detach(), "wait_for_workers": waits_for_all}
    return _connect(host, port, environment, timeout, **server)


def _connect(
    host: str, port: int, environment: Mapping[str, str], timeout: timedelta, **server: Any
) -> torch.distributed.Store:
    """A store that finds rank 0's at `host`, or is that one where `server` has its listening socket."""
    return torch.distributed.TCPStore(host, port, int(environment["WORLD_SIZE"]), timeout=timeout, **server)


def call_roll(
    store: torch.distributed.Store, environment: Mapping[str, str], place: str, timeout: timedelta
) -> dict[int, str]:
    """The ranks that have come within `timeout`, and the place that each gave; the same on every one of them."""
    rank, ranks = environment["RANK"], range(int(environment["WORLD_SIZE"]))
    store.set(f"roll/{rank}", place)
    if rank == "0":
        deadline = time.monotonic() + timeout.total_seconds()
        while not store.check([f"roll/{each}" for each in ranks]) and time.monotonic() < deadline:
            time.sleep(ROLL_POLL_S)
        came = {each: store.get(f"roll/{each}").decode() for each in ranks if store.check([f"roll/{each}"])}
        store.set("roll", json.dumps(came))
        while len(came) < len(ranks) and store.add("heard", 0) < len(came) - 1:  # the store ends with this rank
            if time.monotonic() > deadline + HEARD_S:
                break
            time.sleep(ROLL_POLL_S)
        return came
    store.wait(["roll"], timeout + timedelta(seconds=HEARD_S))
    came = {int(each): place for each, place in json.loads(store.get("roll")).items()}
    store.add("heard", 1)
    return came


def keep_to_interface(environment: dict[str, str] | os._Environ[str]) -> None:
    """Has gloo, and nccl where all ranks are here, use one interface, unless the user has chosen one.

    By itself gloo goes by the host name and nccl by what it finds first: on one machine both listen to the network.
    """
    one_machine = is_one_machine(environment)
    name = _interface_of(_loopback() if one_machine else address_towards(environment["MASTER_ADDR"]))
    if name is None:
        return
    environment.setdefault("GLOO_SOCKET_IFNAME", name)
    if one_machine:
        environment.setdefault("NCCL_SOCKET_IFNAME", name)


def _port(environment: Mapping[str, str]) -> int:
    given = environment.get("MASTER_PORT", "")
    if not given.isdecimal() or not 0 < int(given) < 1 << 16:
        raise ConfigError(f"MASTER_PORT={given}: a port's number is from 1 to 65535.")
    return int(given)


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `host` alone. Where that is no address of this machine, or one that the others can't
    mean by the same name, it listens on all: then somebody translates addresses on the way, and it says so."""
    last: OSError | None = None
    for address in _addresses(host, port):
        if ipaddress.ip_address(address).is_loopback and host not in ("localhost", address):
            continue  # a machine's own name often stands for 127.0.1.1 on itself
        try:
            return _bound(address, port)
        except OSError as error:
            last = error
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(
                    f"MASTER_PORT={port}: another process listens there at {host}; start again, or choose another port."
                ) from None
    if last is not None and last.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        raise ConfigError(f"MASTER_ADDR={host}: can't listen there ({last.strerror}).")
    print(f"MASTER_ADDR={host} is no address of this machine's own: the ranks meet on all its interfaces", flush=True)
    with contextlib.suppress(OSError):
        return _bound("::", port)
    return _bound("0.0.0.0", port)


def _bound(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address == "::":
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _addresses(host: str, port: int) -> list[str]:
    """What `host` stands for, here."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"MASTER_ADDR={host}: no such address ({error}).") from None
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def address_towards(host: str) -> str:
    """This machine's address on the way to `host`; empty if there is no way. Nothing is sent."""
    for address in _addresses(host, 1):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as unsent:
            unsent.connect((address, 1))
            return str(unsent.getsockname()[0])
    return ""


def _loopback() -> str:
    """This machine's address for itself; empty if it has none, as where the loopback interface is down."""
    return next(filter(_interface_of, LOOPBACK), "")


def _interface_of(address: str) -> str | None:
    """The name of the interface that has `address`."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return name
    return None
