"""What a rank's steps are made of: seconds of its own work by section, without what it waits for others or the machine.

On a GPU, sections are between CUDA events, which are read when the device has passed them; nothing waits for it. On a
CPU they are wall time less the time in collectives, and less what the kernel says that the thread stood in the queue
for a processor, as it does on a machine that is busy with something else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from trainer.ranks.collectives import COLLECTIVES

SECTIONS = ("data", "forward", "backward", "optimiser")
EXCHANGE = "exchange"  # in collectives, whatever section they are in; on a GPU only those that the host waits for
STEP = "step"  # from one step's begin to the next's


@dataclass
class _Open:
    """A step whose times aren't all known: events of its sections that the device may not have passed."""

    seconds: dict[str, float]
    events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    def settle(self) -> bool:
        """Adds what the device has passed; whether that is all."""
        if any(not end.query() for _, _, end in self.events):
            return False
        for name, begin, end in self.events:
            self.seconds[name] += begin.elapsed_time(end) / 1e3
        self.events.clear()
        return True


class StepTimes:
    """Times of the last steps. The loop says where sections begin and end, and steps."""

    def __init__(self, device: torch.device, most: int) -> None:
        self._cuda = device.type == "cuda"
        self._most = most
        self._steps: list[_Open] = []
        self._current = _Open(_nothing())
        self._began = time.perf_counter()

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Where the step is in a section."""
        seconds = self._current.seconds
        waited, queued, began = COLLECTIVES.seconds, COLLECTIVES.queued, time.perf_counter()
        on_device = self._cuda and name != "data"
        if on_device:
            begin = torch.cuda.Event(enable_timing=True)
            begin.record()
        yield
        exchange = COLLECTIVES.seconds - waited
        seconds[EXCHANGE] += exchange
        if on_device:
            end = torch.cuda.Event(enable_timing=True)
            end.record()
            self._current.events.append((name, begin, end))
        else:
            own = time.perf_counter() - began - exchange - (COLLECTIVES.queued - queued)
            seconds[name] += max(0.0, own)

    def end_step(self) -> None:
        """The step has been taken."""
        now = time.perf_counter()
        self._current.seconds[STEP] = now - self._began
        self._steps.append(self._current)
        del self._steps[: -2 * self._most]
        self._current, self._began = _Open(_nothing()), now

    def pause_ended(self) -> None:
        """What came since the last step, such as an evaluation or a save, belongs to no step."""
        self._began = time.perf_counter()

    def take(self) -> list[dict[str, float]]:
        """Seconds by section of the steps since the last call whose times are known; nothing is waited for."""
        known: list[dict[str, float]] = []
        while self._steps and self._steps[0].settle():
            known.append(self._steps.pop(0).seconds)
        return known


def _nothing() -> dict[str, float]:
    return dict.fromkeys((*SECTIONS, EXCHANGE, STEP), 0.0)
