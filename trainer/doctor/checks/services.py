"""What a run talks to outside: the object store of checkpoint.dir from each host, W&B from rank 0's."""

from __future__ import annotations

import contextlib
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from typing import Any

from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, range_of_values
from trainer.machine.credentials import masked
from trainer.track.wandb_service import choose_mode

BYTES = 2**20
WAIT_S = 5.0
STORE_WAIT_S = 30.0  # clients of object stores try again for minutes


def measure(station: Station) -> dict[str, Any]:
    """Seconds for a megabyte to the object store and back, and until W&B's server answers; or what went wrong."""
    found: dict[str, Any] = {}
    if station.config.checkpoint.dir and station.is_first_of_host:
        found["store"], found["store_problem"] = _timed(
            lambda: _use_store(str(station.config.checkpoint.dir)), STORE_WAIT_S
        )
    if station.mesh.is_main:
        found["wandb_mode"] = choose_mode(station.config.track.wandb)
        if found["wandb_mode"] == "online":
            found["wandb_address"] = _wandb_address()
            found["wandb"], found["wandb_problem"] = _timed(lambda: _ask(found["wandb_address"]), 2 * WAIT_S)
    return found


def _timed(work: Callable[[], None], limit_s: float) -> tuple[float, str | None]:
    """Seconds that `work` took, and what went wrong. What doesn't end within `limit_s` is left to itself."""
    problems: list[str] = []

    def attempt() -> None:
        try:
            work()
        except Exception as error:  # each store has errors of its own
            problems.append(masked(" ".join(f"{type(error).__name__}: {error}".split()))[:200])

    began = time.monotonic()
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        problems.append(f"no answer within {limit_s:g} s")
    return time.monotonic() - began, next(iter(problems), None)


def _use_store(url: str) -> None:
    """Writes, reads back and removes an object."""
    import fsspec

    files, root = fsspec.core.url_to_fs(url.rstrip("/"), use_listings_cache=False)
    path, content = f"{root}/banyan-doctor-{uuid.uuid4().hex}", b"\0" * BYTES
    files.pipe_file(path, content)
    try:
        if files.cat_file(path) != content:
            raise OSError("what was read back isn't what was written")
    finally:
        files.rm_file(path)


def _wandb_address() -> str:
    from trainer.track.wandb_service import import_wandb

    return str(import_wandb().setup().settings.base_url)


def _ask(address: str) -> None:
    with contextlib.suppress(urllib.error.HTTPError):  # which is an answer
        urllib.request.urlopen(address, timeout=WAIT_S).close()


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """What answered, and who couldn't reach what."""
    diagnosis, first = Diagnosis(), readings[0].values
    mode = first["wandb_mode"]
    if mode != "online":
        diagnosis.measured.append(f"W&B: {mode}, nothing is sent")
    elif first["wandb_problem"]:
        text = f"W&B at {first['wandb_address']} doesn't answer ({first['wandb_problem']}): runs would be offline"
        diagnosis.findings.append(Finding(f"{text}; open the way to it, or set track.wandb.mode=offline"))
    else:
        diagnosis.measured.append(f"W&B at {first['wandb_address']}: answers in {first['wandb'] * 1e3:.0f} ms")
    stored = [each for each in readings if "store" in each.values]
    if not stored:
        diagnosis.measured.append("no object store (checkpoint.dir isn't set)")
        return diagnosis
    url = masked(str(station.config.checkpoint.dir))
    well = [each.values["store"] for each in stored if each.values["store_problem"] is None]
    if well:
        diagnosis.measured.append(f"{url}: 1 MiB there and back in {range_of_values(well, 's')}")
    refused = [each for each in stored if each.values["store_problem"] is not None]
    why = refused[0].values["store_problem"] if refused else ""
    diagnosis.blame(refused, f"{url}: {why}: look at address, credentials and network", among=stored)
    return diagnosis


CHECK = Check("services", measure, judge)
