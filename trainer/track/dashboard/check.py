"""Whether a dashboard can show anything: metrics that runs log, patterns that compile, no panel that is empty."""

from __future__ import annotations

import dataclasses
import re
import typing
from difflib import get_close_matches
from typing import Any

from trainer.config.dashboard import DashboardSettings, PanelSettings, SectionSettings
from trainer.config.verbs import Pretrain
from trainer.errors import ConfigError
from trainer.track.catalogue import LOGGED, find_logged

MEDIA = ("samples/", "sweep/", "health/spike_documents")
NOT_RE2 = re.compile(r"\(\?(?:[=!]|<[=!]|P?[=>])|\\[1-9]")  # look-around and references, which W&B's patterns lack
NEEDS = {
    "line": "metrics or regex",
    "scalar": "metrics",
    "bar": "metrics",
    "scatter": "config and metrics",
    "coordinates": "config or metrics",
    "importance": "metrics",
    "media": "media",
    "text": "text",
}
TAKES: dict[str, tuple[str, ...]] = {
    "line": ("metrics", "regex"),
    "scalar": ("metrics",),
    "bar": ("metrics",),
    "scatter": ("metrics", "config"),
    "coordinates": ("metrics", "config"),
    "importance": ("metrics",),
    "media": ("media",),
    "text": ("text",),
}
ONE = {"scalar": ("metrics",), "scatter": ("metrics", "config"), "importance": ("metrics",)}
CONTENTS = ("metrics", "regex", "config", "media", "text")


def check_dashboard(spec: DashboardSettings, place: str) -> None:
    """Refuses a specification in one line that names the file (`place`), the section and the panel. ConfigError."""
    if not spec.sections:
        raise ConfigError(f"{place}: no sections; give `sections: {{NAME: {{panels: …}}}}`.")
    if not spec.name.strip() or len(spec.name) > 128:
        raise ConfigError(f"{place}: name: give 1 to 128 characters.")
    for name, section in spec.sections.items():
        _check_section(section, f"{place}, section {name}")


def _check_section(section: SectionSettings, place: str) -> None:
    if not section.panels:
        raise ConfigError(f"{place}: no panels; give some, or leave the section out.")
    for name, panel in section.panels.items():
        problem = _problem_of(panel)
        if problem is not None:
            raise ConfigError(f"{place}, panel {name}: {problem}{'' if problem.endswith('?') else '.'}")


def _problem_of(panel: PanelSettings) -> str | None:
    """Why a panel can't be drawn; None where it can."""
    given = [name for name in CONTENTS if getattr(panel, name)]
    if not set(given) & set(TAKES[panel.kind]):
        return f"empty; kind={panel.kind} shows {NEEDS[panel.kind]}"
    unfit = [name for name in given if name not in TAKES[panel.kind]]
    if unfit:
        return f"{unfit[0]} isn't for kind={panel.kind}, which shows {NEEDS[panel.kind]}"
    if panel.kind == "line" and len(given) > 1:
        return "metrics and regex are both given; choose one"
    for name in ONE.get(panel.kind, ()):
        if len(getattr(panel, name)) != 1:
            return f"{name} must be one for kind={panel.kind}, not {len(getattr(panel, name))}"
    return _problem_of_names(panel)


def _problem_of_names(panel: PanelSettings) -> str | None:
    for metric in panel.metrics:
        if find_logged(metric) is None:
            return f"{metric}: no run logs such a metric{_hint(metric)}"
    if panel.regex is not None:
        try:
            re.compile(panel.regex)
        except re.error as error:
            return f"regex {panel.regex!r}: {error}"
        if NOT_RE2.search(panel.regex):
            return f"regex {panel.regex!r}: look-around and references aren't of RE2, which W&B reads"
    for key in panel.config:
        if not _is_key(key):
            return f"config {key}: pretrain has no such key"
    for name in panel.media:
        if not name.startswith(MEDIA):
            return f"media {name}: no run logs it; there are {MEDIA[0]}NAME, {MEDIA[1]}NAME and {MEDIA[2]}"
    return None


def _hint(metric: str) -> str:
    near = get_close_matches(metric, [each.name for each in LOGGED if "{" not in each.name], n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _is_key(key: str) -> bool:
    """Whether a dotted name is a leaf of pretrain's configuration."""
    kind: Any = Pretrain
    for part in key.split("."):
        if not dataclasses.is_dataclass(kind):
            return False
        kind = typing.get_type_hints(kind).get(part)
    return kind is not None and not dataclasses.is_dataclass(kind)
