"""A W&B dashboard as code: sections of panels, each of metrics that runs log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from trainer.config.knobs import knob, part
from trainer.config.run import WandbTrack

KINDS = ("line", "scalar", "bar", "scatter", "coordinates", "importance", "media", "text")


@dataclass
class PanelSettings:
    """One panel. What it shows: metrics, by name or by a pattern; configuration keys; media; or a text."""

    title: Optional[str] = knob(None, "Title; by default the panel's name, a capital first.")
    kind: str = knob("line", "What is drawn.", choices=KINDS)
    metrics: list[str] = knob([], "Metrics, by name.")
    regex: Optional[str] = knob(None, "Pattern of metrics (RE2), in the place of names: a curve for each that matches.")
    config: list[str] = knob([], "Keys of pretrain's configuration (scatter, coordinates).")
    media: list[str] = knob([], "Pictures, tables or samples, by name (media).")
    text: Optional[str] = knob(None, "Markdown (text).")
    x: Optional[str] = knob(
        None, "Axis of this panel's curves; by default the dashboard's.", choices=("step", "tokens", "time")
    )
    log_x: bool = knob(False, "A logarithmic x axis.")
    log_y: bool = knob(False, "A logarithmic y axis.")
    smoothing: float = knob(0.0, "Weight of exponential smoothing, as in W&B; the data stay visible.", high=0.999)
    width: int = knob(8, "Width in the report, of 24.", low=2, high=24)


@dataclass
class SectionSettings:
    """A section of the workspace, and a chapter of the report."""

    title: Optional[str] = knob(None, "Title; by default the section's name, a capital first.")
    text: str = knob("", "What the report says above the panels.")
    open: bool = knob(True, "Whether the workspace shows it open.")
    panels: dict[str, PanelSettings] = knob({}, "Panels by name, in their order.")


@dataclass
class DashboardSettings:
    """A workspace and a report, and where they go."""

    output: Optional[str] = knob(
        None,
        "Folder for workspace.json and report.json, in the place of W&B; without access, dashboards/.",
        common=True,
    )
    file: Optional[str] = knob(None, "File of the specification; dashboard=FILE or dashboard=CHOICE sets it.")
    name: str = knob("Banyan", "Name of the workspace, and title of the report: the same name is the same view.")
    text: str = knob("", "What the report begins with.")
    x: str = knob("tokens", "Axis of curves.", common=True, choices=("step", "tokens", "time"))
    max_runs: int = knob(10, "Runs that a panel shows at most.", low=1)
    sections: dict[str, SectionSettings] = knob({}, "Sections by name, in their order.")


@dataclass
class Dashboard:
    """Configuration of `banyan dashboard`."""

    dashboard: DashboardSettings = part(DashboardSettings)
    track: WandbTrack = part(WandbTrack)
