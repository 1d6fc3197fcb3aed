"""A dashboard's specification → what W&B stores of its workspace and its report, by wandb-workspaces.

The same specification gives the same bytes: ids, which the library draws by chance, follow from names here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from trainer.config.dashboard import DashboardSettings, PanelSettings
from trainer.errors import ConfigError
from trainer.machine.durable import json_bytes

AXES = {"step": "step", "tokens": "tokens", "time": "_runtime"}  # our names; as W&B calls them
COLUMNS = 24  # of a report's grid
ROWS = 6  # of it, that a panel is high
WORKSPACE, REPORT = "project-view", "runs"  # types of views, as W&B calls them


@dataclass(frozen=True)
class View:
    """What W&B stores under a name: the same name is the same view. `spec` is JSON."""

    kind: str
    name: str
    title: str
    description: str
    spec: dict[str, Any]


def build_workspace(spec: DashboardSettings) -> View:
    """The workspace: a section for each of the specification's."""
    _, workspaces = import_workspaces()
    sections = []
    for name, section in spec.sections.items():
        panels = [build_panel(spec, panel, key, f"workspace/{name}/{key}") for key, panel in section.panels.items()]
        made = workspaces.Section(name=section.title or titled(name), panels=panels, is_open=section.open)
        made._id = stable_id(f"workspace/{name}")
        sections.append(made)
    settings = workspaces.WorkspaceSettings(x_axis=AXES[spec.x], max_runs=spec.max_runs)
    workspace = workspaces.Workspace(entity="", project="", name=spec.name, sections=sections, settings=settings)
    workspace._internal_runset_id = stable_id("workspace")
    model = workspace._to_model().spec
    return View(WORKSPACE, f"nw-{stable_id(f'view/{spec.name}')[:11]}-v", spec.name, spec.text.strip(), stored(model))


def build_report(spec: DashboardSettings) -> View:
    """The report: a chapter for each section, with its text above its panels."""
    reports, _ = import_workspaces()
    blocks: list[Any] = [reports.TableOfContents()]
    if spec.text:
        blocks.append(reports.MarkdownBlock(spec.text.strip()))
    for name, section in spec.sections.items():
        blocks.append(reports.H2(section.title or titled(name)))
        if section.text:
            blocks.append(reports.MarkdownBlock(section.text.strip()))
        runset = reports.Runset(name="Runs")
        runset._id = stable_id(f"report/{name}")
        panels = [build_panel(spec, panel, key, f"report/{name}/{key}") for key, panel in section.panels.items()]
        for panel, layout in zip(panels, _places(list(section.panels.values())), strict=True):
            panel.layout = reports.Layout(**layout)
        blocks.append(reports.PanelGrid(runsets=[runset], panels=panels))
    report = reports.Report(project="", entity="", title=spec.name, blocks=blocks, width="fluid")
    return View(REPORT, stable_id(f"report/{spec.name}"), spec.name, spec.text.strip(), stored(report._to_model().spec))


def build_panel(spec: DashboardSettings, panel: PanelSettings, name: str, identity: str) -> Any:
    """A panel of wandb-workspaces', with an id that follows from `identity`."""
    made = BUILDERS[panel.kind](panel, panel.title or titled(name), AXES[panel.x or spec.x])
    made._id = stable_id(identity)
    return made


def _line(panel: PanelSettings, title: str, x: str) -> Any:
    return reports_module().LinePlot(
        title=title,
        x=x,
        y=panel.metrics,
        metric_regex=panel.regex,
        log_x=panel.log_x or None,
        log_y=panel.log_y or None,
        smoothing_factor=panel.smoothing or None,
        smoothing_type="exponential" if panel.smoothing else None,
        smoothing_show_original=True if panel.smoothing else None,
    )


def _scalar(panel: PanelSettings, title: str, x: str) -> Any:
    return reports_module().ScalarChart(title=title, metric=panel.metrics[0])


def _bar(panel: PanelSettings, title: str, x: str) -> Any:
    return reports_module().BarPlot(title=title, metrics=panel.metrics)


def _scatter(panel: PanelSettings, title: str, x: str) -> Any:
    reports = reports_module()
    return reports.ScatterPlot(
        title=title,
        x=reports.Config(panel.config[0]),
        y=reports.SummaryMetric(panel.metrics[0]),
        log_x=panel.log_x or None,
        log_y=panel.log_y or None,
    )


def _coordinates(panel: PanelSettings, title: str, x: str) -> Any:
    reports = reports_module()
    axes = [*map(reports.Config, panel.config), *map(reports.SummaryMetric, panel.metrics)]
    columns = [reports.ParallelCoordinatesPlotColumn(metric=axis, display_name=axis.name) for axis in axes]
    return reports.ParallelCoordinatesPlot(title=title, columns=columns)


def _importance(panel: PanelSettings, title: str, x: str) -> Any:
    return reports_module().ParameterImportancePlot(with_respect_to=panel.metrics[0])


def _media(panel: PanelSettings, title: str, x: str) -> Any:
    return reports_module().MediaBrowser(title=title, media_keys=panel.media, num_columns=1)


def _text(panel: PanelSettings, title: str, x: str) -> Any:
    return reports_module().MarkdownPanel(markdown=(panel.text or "").strip())


BUILDERS: dict[str, Callable[[PanelSettings, str, str], Any]] = {
    "line": _line,
    "scalar": _scalar,
    "bar": _bar,
    "scatter": _scatter,
    "coordinates": _coordinates,
    "importance": _importance,
    "media": _media,
    "text": _text,
}


def _places(panels: list[PanelSettings]) -> Iterator[dict[str, int]]:
    """Where each panel stands in a report's grid: from the left, as many as fit, row by row."""
    x = y = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y = 0, y + ROWS
        yield {"x": x, "y": y, "w": panel.width, "h": ROWS}
        x += panel.width


def view_json(view: View) -> bytes:
    """A view as a file that can be committed."""
    return json_bytes(dataclasses.asdict(view))


def stored(model: Any) -> dict[str, Any]:
    """What W&B stores of a model of the library's, as JSON."""
    found: dict[str, Any] = json.loads(model.model_dump_json(by_alias=True, exclude_none=True))
    return found


def stable_id(identity: str) -> str:
    """12 characters that follow from a name, such as the library's random ones."""
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def titled(name: str) -> str:
    """A name as a title."""
    return name.replace("_", " ").capitalize()


def reports_module() -> Any:
    """wandb_workspaces.reports.v2."""
    return import_workspaces()[0]


def import_workspaces() -> tuple[ModuleType, ModuleType]:
    """The library's modules of reports and of workspaces. ConfigError without it."""
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # pydantic's, of its own code
            import wandb_workspaces.reports.v2 as reports
            import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise ConfigError("dashboard needs wandb-workspaces: pip install 'banyan-train[wandb]'.") from error
    return reports, workspaces
