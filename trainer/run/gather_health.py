"""What a page says of a run's health, read from its directory: history, notes, the last hang, alerts, energy."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from trainer.config.energy import Energy
from trainer.config.stored import from_values
from trainer.data.tokens.history import read_history
from trainer.errors import InputError
from trainer.machine.json_file import Malformed, open_regular
from trainer.ranks.watchdog import HANG
from trainer.report.run_page.record import HangRecord, HealthRecord
from trainer.track.alerts import read_alerts
from trainer.track.energy import FILE as ENERGY
from trainer.track.energy import emissions_kg, energy_in_words, read_account
from trainer.track.health_record import read_notes

MOST_ROWS = 200  # of a table, the last
MOST_RANKS = 64  # whose place in a hang is told
HEAD_BYTES = 1 << 13  # of what a rank left, in which the report and its place are

T = TypeVar("T")


def gather_health(run_dir: Path) -> HealthRecord:
    """The record; a part that can't be read is among its problems."""
    problems: list[str] = []

    def read(part: Callable[[Path], T], instead: T) -> T:
        try:
            return part(run_dir)
        except InputError as error:
            problems.append(str(error))
            return instead

    history = read(read_history, None)
    return HealthRecord(
        notes=_last(read(read_notes, [])),
        skipped=tuple(history.skipped) if history else (),
        rewinds=_last(history.rewinds if history else []),
        hang=_hang(run_dir),
        alerts=_last(read(read_alerts, [])),
        problems=tuple(problems),
    )


def _last(found: Iterable[T]) -> tuple[T, ...]:
    return tuple(found)[-MOST_ROWS:]


def _hang(run_dir: Path) -> HangRecord | None:
    """The last hang, by what its ranks left: a line of report, and one of where the rank was."""
    folder, places, report = run_dir / HANG, [], ""
    with contextlib.suppress(OSError):
        names = sorted(name for name in os.listdir(folder) if re.fullmatch(r"rank-\d{5,}\.txt", name))
        for name in names[:MOST_RANKS]:
            with contextlib.suppress(OSError, Malformed), open_regular(folder / name) as file:
                first, second, *_ = [*file.read(HEAD_BYTES).decode(errors="replace").splitlines(), "", ""]
                report = report or first
                places.append((int(name[5:-4]), second.partition(" ")[2].partition(" ")[2] or second))
        if report:
            return HangRecord((folder / names[0]).stat().st_mtime, report, tuple(places))
    return None


def gather_energy(run_dir: Path, config: dict[str, Any]) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """Energy in kWh and how it was measured or estimated, for a tile; and a table, empty where nothing was counted."""
    account = read_account(run_dir / ENERGY)
    if account is None or account.joules <= 0:
        return ("not measured", "energy"), []
    prefix = "track.energy."
    try:
        given = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
        settings = from_values(Energy, given, prefix)
    except ValueError:  # an enemy's config.yaml; the account stands
        settings = Energy()
    figure, _, how = energy_in_words(account, settings).partition(", ")
    rows = [("Energy", figure), ("How it is known", how.partition("; ")[0])]
    if (by_token := account.joules_per_token()) is not None:
        rows.append(("By token trained on", f"{by_token:.4g} J"))
    if account.seconds > 0:
        rows.append(("Power, mean by rank that counted", f"{account.joules / account.seconds:.4g} W"))
    emitted = emissions_kg(account, settings)
    stated = (
        f"{emitted:.4g} kg CO2e" if emitted is not None else "not reckoned: track.energy.grid_gco2_per_kwh isn't set"
    )
    rows.append(("Emissions", stated))
    return (figure, f"energy, {how}"), rows
