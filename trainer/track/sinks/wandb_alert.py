"""An alert by W&B of a run that is over, or hangs: from a process in which the run isn't open."""

from __future__ import annotations

import time
from pathlib import Path

from trainer.config import Wandb
from trainer.track.sinks.wandb_run import ALERT_LEVELS, WandbSettings
from trainer.track.wandb_service import WandbError, ask_server, choose_mode, import_wandb, stop_service, within

LONGEST_WAIT_S = 10.0
OFTEN_ENOUGH_MS = 60_000  # in which W&B sends one of a title, as run.alert has it
# W&B's own, which wandb-core sends for run.alert.
ALERT = """mutation NotifyScriptableRunAlert($entityName: String!, $projectName: String!, $runName: String!,
    $title: String!, $text: String!, $severity: AlertSeverity = INFO, $waitDuration: Duration) {
  notifyScriptableRunAlert(input: {entityName: $entityName, projectName: $projectName, runName: $runName,
    title: $title, text: $text, severity: $severity, waitDuration: $waitDuration}) { success }
}"""
ENTITY_QUERY = "query Viewer { viewer { entity } }"


def alert_of_run(run_dir: Path, settings: Wandb, kind: str, text: str) -> None:
    """Sends an alert that belongs to the W&B run of a run directory. WandbError where there is none, or it is refused.

    Where W&B isn't online nothing is sent: the run has said so as it began.
    """
    if choose_mode(settings) != "online":
        return
    if not (run_dir / "wandb_id").exists():
        raise WandbError("the run has no W&B run yet")
    run_id = WandbSettings(run_dir, run_dir.name, settings, {}).run_id
    try:
        within(LONGEST_WAIT_S, lambda: _send(run_id, settings, kind, text))
    except Exception:
        stop_service()  # it would wait for the server, and hold up the end of this process
        raise


def _send(run_id: str, settings: Wandb, kind: str, text: str) -> None:
    deadline = time.monotonic() + LONGEST_WAIT_S

    def left() -> float:
        return deadline - time.monotonic()

    entity = settings.entity or import_wandb().setup().settings.entity
    if not entity:
        entity = (ask_server(ENTITY_QUERY, {}, left()).get("viewer") or {}).get("entity")
    given = {
        "entityName": entity,
        "projectName": settings.project,
        "runName": run_id,
        "title": kind,
        "text": text,
        "severity": ALERT_LEVELS.get(kind, "WARN"),
        "waitDuration": OFTEN_ENOUGH_MS,
    }
    answer = ask_server(ALERT, given, left())
    if not (answer.get("notifyScriptableRunAlert") or {}).get("success"):
        raise WandbError("the server didn't take it")
