"""How much of what a data sheet promises is reached: fitted to published runs, or to a run of one's own.

`python -m tests.benchmarks.plan_fit` fits these numbers to half of the rows under tests/planning/published/, prints the
errors of both halves and what it would write here; a test holds the errors of the half that isn't used for the fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from trainer.config.plan import PlanSettings


@dataclass(frozen=True)
class Calibration:
    """Shares are of the device's own figures, in (0, 1]."""

    matmul: float = 0.65  # of the dense peak, by wide matrix products
    attention: float = 0.40  # of the dense peak, by attention's kernels with heads of 128
    narrow_heads: float = 0.5  # attention's share falls with (width / 128) to this power, for narrower heads
    spill: float = 0.30  # of the bytes that products move, what isn't hidden behind their arithmetic
    eager: float = 9.0  # times that memory is written or read for each byte kept from forward to backward
    compiled: float = 5.0  # the same, in compiled blocks
    contention: float = 0.10  # of the time of hidden exchange, what it costs all the same
    tensor_link: float = 0.40  # of a link, by tensor- and sequence-parallel exchange
    data_link: float = 0.80  # of a link, by the data-parallel one


# Fitted. Calibration's own numbers are the estimates that the fit begins with, and what other devices are taken for.
SHARED = {"eager": 7.698, "compiled": 5.108, "contention": 0.104, "tensor_link": 0.451, "narrow_heads": 0.230}
DEVICE_SHARES = {  # matmul and attention
    "a100": (0.722, 0.345),
    "a100_40gb": (0.722, 0.345),
    "h100": (0.593, 0.185),
    "h200": (0.683, 0.399),
}


def calibration_of(device: str, settings: PlanSettings) -> Calibration:
    """Of a device of the table, by its name; what `plan` sets comes first."""
    found = Calibration(**SHARED)
    if device in DEVICE_SHARES:
        matmul, attention = DEVICE_SHARES[device]
        found = replace(found, matmul=matmul, attention=attention)
    given = {
        "matmul": settings.matmul_share,
        "attention": settings.attention_share,
        "tensor_link": settings.link_share,
        "data_link": settings.link_share,
    }
    return replace(found, **{name: value for name, value in given.items() if value is not None})
