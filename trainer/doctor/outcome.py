"""What an examination comes to: a check's lines for people, everything as JSON for machines, hosts to leave out."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config.doctor import Doctor
from trainer.doctor.check import Finding
from trainer.errors import ConfigError, FoundError
from trainer.machine.durable import write_json


@dataclass(frozen=True)
class Examined:
    """One check's outcome."""

    name: str
    seconds: float
    measured: list[str]
    findings: list[Finding]

    def show(self) -> None:
        """Prints its lines: what was measured, then what is wrong."""
        print(f"{'FOUND' if self.findings else 'ok':5}  {self.name:12} {self.seconds:5.1f} s", flush=True)
        for line in self.measured:
            print(f"         {line}", flush=True)
        for finding in self.findings:
            print(f"       ! {finding.text}", flush=True)


@dataclass(frozen=True)
class Examination:
    """The outcomes, as far as checks have come, and what was examined."""

    ranks: int
    hosts: int
    device: str
    outcomes: list[Examined]

    def add(self, outcome: Examined) -> None:
        """Shows and keeps a check's outcome."""
        outcome.show()
        self.outcomes.append(outcome)

    def conclude(self, output: str | None) -> None:
        """Writes the JSON, if somebody wants it. FoundError, with hosts to leave out, if something is wrong."""
        if output is not None:
            write_json(Path(output).expanduser(), self.as_json())
        if found := self.findings:
            hosts = bad_hosts(self.outcomes)
            exclude = f" Leave out: --exclude={','.join(hosts)}" if hosts else ""
            raise FoundError(f"doctor: {len(found)} thing{'s' * (len(found) > 1)} found.{exclude}")
        print("well: nothing found", flush=True)

    @property
    def findings(self) -> list[Finding]:
        """Of all checks."""
        return [finding for each in self.outcomes for finding in each.findings]

    def as_json(self) -> dict[str, Any]:
        """What doctor.output gets."""
        return {
            "version": 1,
            "time": round(time.time(), 3),
            "well": not self.findings,
            "ranks": self.ranks,
            "hosts": self.hosts,
            "device": self.device,
            "exclude": bad_hosts(self.outcomes),
            "checks": [asdict(each) for each in self.outcomes],
        }


def bad_hosts(outcomes: list[Examined]) -> list[str]:
    """Hosts that a finding blames, for an --exclude list."""
    return list(dict.fromkeys(host for each in outcomes for finding in each.findings for host in finding.hosts))


def check_output(config: Doctor) -> None:
    """ConfigError if doctor.output can't be written, before minutes are spent on what is to stand there."""
    if config.doctor.output is None:
        return
    path = Path(config.doctor.output).expanduser()
    try:
        path.open("a").close()
        if path.stat().st_size == 0:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"doctor.output={path}: {error.strerror}; give a file that can be written.") from error
