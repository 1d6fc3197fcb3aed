"""What a whole run takes: days, energy, money."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86400.0


@dataclass(frozen=True)
class Cost:
    """Of a run to its last token. `price` is in the currency of plan.price, None without one."""

    tokens_per_second: float
    days: float
    kilowatt_hours: float  # of the devices at plan.watts; hosts, switches and cooling come on top
    price: float | None


def cost_of(
    *, tokens: float, tokens_per_step: int, step_s: float, devices: int, watts: float, price: float | None
) -> Cost:
    """Cost of `tokens` at `step_s` seconds for each step of `tokens_per_step`; `price` is a device's for an hour."""
    seconds = tokens / tokens_per_step * step_s
    hours = devices * seconds / 3600
    return Cost(
        tokens_per_second=tokens_per_step / step_s,
        days=seconds / DAY_S,
        kilowatt_hours=hours * watts / 1000,
        price=None if price is None else hours * price,
    )
