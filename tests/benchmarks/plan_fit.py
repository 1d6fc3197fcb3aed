"""Fits the constants of `banyan plan` to half of the published runs, and prints the errors of both halves.

python -m tests.benchmarks.plan_fit        # about 15 s on one core; needs scipy, which the extra dev has

Least squares of the logarithms of predicted over measured step times, with a soft limit at 10 %. Each constant is also
held to its estimate in Calibration, with the weight of a sixth of a row: rows alone don't tell the constants of
compiled runs apart. Rows that test are never looked at.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tests.planning.published_runs import PublishedRun, halves, published_runs
from trainer.planning.calibration import DEVICE_SHARES, SHARED, Calibration

FAMILIES = {"a100_40gb": "a100"}  # devices that differ in memory alone
OF_ALL = ("eager", "compiled", "contention", "tensor_link", "narrow_heads")
OF_DEVICE = ("matmul", "attention")
PULL = 0.4  # weight of a constant's logarithm, relative to its estimate; its square is a sixth

Constants = dict[str, float]


def family(run: PublishedRun) -> str:
    """The device whose constants a run has."""
    device = str(run.facts["device"])
    return FAMILIES.get(device, device)


def shares_of(run: PublishedRun, constants: Constants) -> Calibration:
    """The calibration of a run's device from named constants: matmul.h100 and so on."""
    own = {name: constants[f"{name}.{family(run)}"] for name in OF_DEVICE}
    return Calibration(**{name: constants[name] for name in OF_ALL}, **own)


def fit(runs: Sequence[PublishedRun]) -> Constants:
    """Constants that the runs are predicted best with."""
    from scipy.optimize import least_squares

    estimate = Calibration()
    start = {name: getattr(estimate, name) for name in OF_ALL}
    start |= {f"{name}.{device}": getattr(estimate, name) for device in sorted(map_of(runs)) for name in OF_DEVICE}
    names = list(start)

    def residuals(logarithms: Sequence[float]) -> list[float]:
        constants = {name: start[name] * math.exp(value) for name, value in zip(names, logarithms, strict=True)}
        errors = [math.log(run.predict(shares_of(run, constants)) / run.measured) for run in runs]
        return [*errors, *(PULL * value for value in logarithms)]

    found = least_squares(residuals, [0.0] * len(names), loss="soft_l1", f_scale=0.1)
    return {name: start[name] * math.exp(value) for name, value in zip(names, found.x, strict=True)}


def map_of(runs: Sequence[PublishedRun]) -> set[str]:
    """Devices whose constants are fitted."""
    return {family(run) for run in runs}


def committed() -> Constants:
    """The constants that `plan` uses, under the same names."""
    own = {
        f"{name}.{device}": value
        for device in set(DEVICE_SHARES) - set(FAMILIES)
        for name, value in zip(OF_DEVICE, DEVICE_SHARES[device], strict=True)
    }
    return dict(SHARED) | own


def errors_of(runs: Sequence[PublishedRun], constants: Constants) -> list[float]:
    """Errors of the predicted time of each run, in [0, ∞)."""
    return [abs(run.error(shares_of(run, constants))) for run in runs]


def table(runs: Sequence[PublishedRun], constants: Constants) -> list[str]:
    """A line for each source and device, with the errors of both halves."""
    fitted, held_out = halves(runs)
    lines = [
        f"{'source':<14}{'device':<11}{'fitted to':>10}{'median':>8}{'worst':>8}{'tested':>8}{'median':>8}{'worst':>8}"
    ]
    groups = sorted({(run.source, str(run.facts["device"])) for run in runs})
    for source, device in [*groups, ("all", "")]:
        cells = ""
        for half, width in ((fitted, 10), (held_out, 8)):
            rows = [run for run in half if source == "all" or (run.source, run.facts["device"]) == (source, device)]
            errors = errors_of(rows, constants)
            figures = (f"{statistics.median(errors):.1%}", f"{max(errors):.1%}") if errors else ("", "")
            cells += f"{len(rows):>{width}}{figures[0]:>8}{figures[1]:>8}"
        lines.append(f"{source:<14}{device:<11}{cells}")
    return lines


def main() -> None:
    """Fits, and prints the table, the worst rows, and the constants beside those that are committed."""
    runs = published_runs()
    constants = fit(halves(runs)[0])
    print("\n".join(table(runs, constants)))
    held_out = halves(runs)[1]
    print("\nworst of those not fitted to, predicted time relative to measured:")
    for run in sorted(held_out, key=lambda run: -abs(run.error(shares_of(run, constants))))[:10]:
        print(f"  {run.error(shares_of(run, constants)):+6.1%}  {run.name} tokens/s a device")
    print("\nconstant              fitted  committed")
    for name, value in constants.items():
        print(f"{name:<20}{value:8.3f}{committed().get(name, math.nan):11.3f}")


if __name__ == "__main__":
    main()
