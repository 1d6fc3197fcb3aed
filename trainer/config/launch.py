"""How ranks are started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob


@dataclass
class Launch:
    """How ranks are started."""

    name: str = knob("local", "Launcher.", choices=("local",))
    processes: Optional[int] = knob(None, "Ranks on this machine; by default one per GPU, or one.", common=True, low=1)
    threads: Optional[int] = knob(None, "CPU threads per rank; by default cores / processes.", "threads", low=1)
