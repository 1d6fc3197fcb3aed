"""One W&B run for one run directory, however often training restarts, online or offline.

The run's id lives in RUN_DIR/wandb_id. W&B numbers rows by itself; ours are found by `step` and `tokens`. An online
start asks the server for the last row that it has. Rows that a killed process had sent before aren't sent again then,
and rows that it hadn't are made up for from metrics.jsonl: each row is there once.
"""

from __future__ import annotations

import html
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import Wandb
from trainer.errors import STOPPED, InputError
from trainer.machine.durable import write_text
from trainer.track.lineage import ArtifactRecord, checkpoint_artifact, data_artifact, read_references
from trainer.track.sinks.journal import AXES, METRICS, SAMPLES, Row, read_metrics, read_rows
from trainer.track.sinks.sink import Sink, Start
from trainer.track.spike_record import SpikeRecord, read_spikes
from trainer.track.wandb_service import (
    STOP_TIMEOUT_S,
    WandbError,
    ask_server,
    choose_mode,
    import_wandb,
    in_a_line,
    stop_service,
    within,
)

if TYPE_CHECKING:
    import wandb

OFFLINE_TIMEOUT_S = 30.0  # the longest wait for W&B's service when no server is involved
FINISH_TIMEOUT_S = 30.0  # the longest wait for uploads when training ends
SPIKE_TABLE = "health/spike_documents"
ALERT_LEVELS = {"finished": "INFO", "stop": "INFO", "crash": "ERROR", "stall": "ERROR"}
# W&B's own query (wandb-core sends it when it resumes a run), cut down to what is needed here.
LAST_ROW_QUERY = """query RunResumeStatus($project: String, $entity: String, $name: String!) {
  model(name: $project, entityName: $entity) { bucket(name: $name, missingOk: true) { historyLineCount historyTail } }
}"""


@dataclass(frozen=True)
class WandbSettings:
    """What a W&B run is made from."""

    run_dir: Path
    name: str
    settings: Wandb
    config: dict[str, Any]  # goes into W&B's config
    finish_timeout_s: float = FINISH_TIMEOUT_S
    job: str | None = None  # what the run did, where it didn't train

    @property
    def run_id(self) -> str:
        """The id in RUN_DIR/wandb_id; made up and written there at the first call."""
        path = self.run_dir / "wandb_id"
        if not path.exists():
            write_text(path, f"{uuid.uuid4().hex[:12]}\n")
        found = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", found):
            raise InputError(f"{path}: no id of a W&B run; remove it, and the run gets a new one.")
        return found


class WandbRun(Sink):
    """A started W&B run. An error of W&B's never gets out of `log` and `close`: it becomes one line."""

    def __init__(
        self, run: wandb.Run, plan: WandbSettings, *, last_row: Row | None, say: Callable[[str], None]
    ) -> None:
        self._run = run
        self._plan = plan
        self._unsent = Unsent(last_row)
        self._say = say
        self._broken = False

    @property
    def online(self) -> bool:
        """Whether rows go to the server now."""
        return not self._run.offline

    @property
    def last_step(self) -> int:
        """The last step of which the server has a row, as the run begins; -1 if it has none."""
        return self._unsent.last_step

    @property
    def url(self) -> str | None:
        """The run's page; None offline."""
        return self._run.url

    @property
    def folder(self) -> Path:
        """Where W&B keeps this process's part of the run on disk."""
        return Path(self._run.settings.sync_dir)

    def log(self, row: Row) -> bool:
        """Logs a row of metrics.jsonl or samples.jsonl unless the server has it; returns whether it did.

        The first error ends the logging to W&B, so that what the server lacks is always the end of the journal, which
        the next start or `banyan sync` sends.
        """
        if self._broken or not self._unsent.includes(row):
            return False
        try:
            self._run.log(_history(row))
        except Exception as error:
            self._give_up(error)
        return not self._broken

    def row(self, row: Row) -> None:
        """Logs a row of metrics unless the server has it."""
        self.log(row)

    def sample(self, row: Row) -> None:
        """Logs a sample as a table `samples/NAME`."""
        self.log(row)

    def spike(self, spike: SpikeRecord) -> None:
        """Logs a spike's documents as a table, each row with the command."""
        self.log(spike_row(spike))

    @property
    def tells_people(self) -> bool:
        """Offline W&B keeps an alert until it is too late."""
        return self.online

    def alert(self, kind: str, text: str) -> None:
        """W&B's own alert, which people get as they have told W&B to."""
        self._run.alert(title=kind, text=text, level=ALERT_LEVELS.get(kind, "WARN"))

    def checkpoint(self, complete: Path, step: int) -> None:
        """Logs a checkpoint as what the run has made."""
        self.record_artifact(checkpoint_artifact(complete, step, self._plan.run_id), is_input=False)

    def use_data(self, facts: Mapping[str, Any]) -> None:
        """Logs the data that the facts name as what the run is made from."""
        for reference in read_references(facts):
            self.record_artifact(data_artifact(reference), is_input=True)

    def record_artifact(self, record: ArtifactRecord, *, is_input: bool) -> bool:
        """Logs an artifact that the run uses or has made; whether it did. An error is said, and all else goes on."""
        if self._broken:
            return False
        try:
            within(self._plan.settings.init_timeout_s, partial(self._send_artifact, record, is_input=is_input))
        except Exception as error:
            self._say(f"W&B: the lineage lacks {record.name}: {in_a_line(error)}.")
            return False
        return True

    def _send_artifact(self, record: ArtifactRecord, *, is_input: bool) -> None:
        import wandb

        artifact = wandb.Artifact(record.name, record.kind, metadata=record.metadata)
        for name, path in record.references.items():
            artifact.add_reference(f"file://{path.resolve()}", name=name)
        for name, path in record.unhashed.items():
            artifact.add_reference(f"file://{path.resolve()}", name=name, checksum=False)
        for name, address in record.addresses.items():
            artifact.add_reference(address, name=name, checksum=False)
        for path in record.files:
            artifact.add_file(str(path), skip_cache=True)
        if record.folder is not None:
            artifact.add_dir(str(record.folder), skip_cache=True)
        aliases = ["latest", *record.aliases]
        if is_input:  # as use_artifact does, which can't be asked offline, and waits for the upload
            self._run._log_artifact(artifact, aliases=aliases, is_user_created=True, use_after_commit=True)
        else:
            self._run.log_artifact(artifact, aliases=aliases)

    def log_media(
        self, *, pictures: Mapping[str, Path], tables: Mapping[str, tuple[list[str | int], list[list[Any]]]]
    ) -> None:
        """Logs pictures, and tables as (columns, rows)."""
        import wandb

        try:
            shown = {key: wandb.Image(str(path)) for key, path in pictures.items()}
            listed = {key: wandb.Table(columns=columns, data=rows) for key, (columns, rows) in tables.items()}
            self._run.log(shown | listed)
        except Exception as error:
            self._give_up(error)

    def close(self, *, exit_code: int, summary: Mapping[str, Any]) -> bool:  # type: ignore[override]
        """Ends the W&B run, waiting for uploads up to its finish timeout. Returns whether the server has every row.

        Exit code 85 (stopped after a checkpoint) counts as success, so that W&B lets the run go on.
        """
        try:
            self._run.summary.update(dict(summary))
            finish = partial(self._run.finish, exit_code=0 if exit_code == STOPPED else exit_code)
            within(self._plan.finish_timeout_s + STOP_TIMEOUT_S, finish)
        except TimeoutError:
            self._give_up(f"not all rows were uploaded within {self._plan.finish_timeout_s:g} s")
        except Exception as error:
            self._give_up(error)
        if self._broken:
            stop_service()
        complete = self.online and not self._broken
        if complete:
            mark_superseded(self._plan.run_dir)
        return complete

    def _give_up(self, reason: object) -> None:
        if not self._broken:
            self._broken = True
            self._say(f"W&B: {in_a_line(reason)}. {METRICS} has every row; {_sync_hint(self._plan.run_dir)}.")


class Unsent:
    """Tells rows that the server lacks from rows that it has, given the last row that it has.

    The rows of a run come in one order, and within a step no two have the same keys.
    """

    def __init__(self, last_row: Row | None) -> None:
        self.last_step = -1 if last_row is None else int(last_row["step"])
        self._last_keys = set() if last_row is None else _metric_keys(last_row)
        self._passed = False

    def includes(self, row: Row) -> bool:
        """Whether the server lacks `row`; to be asked of every row in order."""
        if self._passed or row["step"] > self.last_step:
            return True
        if row["step"] == self.last_step:
            self._passed = _metric_keys(_history_keys(row)) == self._last_keys
        return False


def start_run(plan: WandbSettings, mode: str, *, say: Callable[[str], None]) -> WandbRun:
    """Starts or goes on with the run, `mode` online or offline.

    Raises WandbError if that fails; online it gives up after `init_timeout_s` seconds.
    """
    timeout_s = plan.settings.init_timeout_s
    deadline_s = time.monotonic() + max(timeout_s / 2, timeout_s - STOP_TIMEOUT_S)  # the rest is for giving up
    wandb = import_wandb()
    try:
        last_row = fetch_last_row(plan, deadline_s - time.monotonic()) if mode == "online" else None
        run = wandb.init(
            mode=mode,
            id=plan.run_id,
            name=plan.name,
            project=plan.settings.project,
            entity=plan.settings.entity,
            group=plan.settings.group,
            tags=plan.settings.tags,
            job_type=plan.job,
            dir=plan.run_dir,
            config=plan.config,
            resume="allow",
            reinit="create_new",
            allow_val_change=True,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                init_timeout=max(0.1, deadline_s - time.monotonic()) if mode == "online" else OFFLINE_TIMEOUT_S,
                finish_timeout=plan.finish_timeout_s,
                finish_timeout_raises=True,
            ),
        )
        run.define_metric("step", hidden=True)
        run.define_metric("tokens", step_metric="step")
        run.define_metric("*", step_metric="step")
    except Exception as error:
        late = mode == "online" and time.monotonic() >= deadline_s
        reason = f"no answer within {timeout_s:g} s" if late else in_a_line(error)
        stop_service()  # it would hold on to the run's id, and going on offline would fail
        raise WandbError(f"W&B {mode}: {reason}.") from error
    return WandbRun(run, plan, last_row=last_row, say=say)


def open_sink(start: Start, say: Callable[[str], None]) -> Sink | None:
    """The W&B run; online, it is first sent the rows that a kill or a dead network kept from the server."""
    run = start_or_fall_back(make_plan(start), say=say)
    if run is not None:
        run.use_data(start.facts)
    if run is not None and run.online:
        for row in journal_rows(start.run_dir, after=run.last_step - 1):
            run.log(row)
    return run


def make_plan(start: Start) -> WandbSettings:
    """What the W&B run of a run directory is made from."""
    return WandbSettings(
        run_dir=start.run_dir,
        name=start.config.run.name or start.run_dir.resolve().name,
        settings=start.config.track.wandb,
        config={**start.stored_config, "facts": start.facts},
    )


def start_or_fall_back(plan: WandbSettings, *, say: Callable[[str], None]) -> WandbRun | None:
    """Starts the run in the mode asked for; offline, in so many words, if the server doesn't answer in time.

    None if W&B is disabled, or fails even offline: training goes on without it.
    """
    mode = choose_mode(plan.settings, say=say)
    if mode == "online":
        try:
            return start_run(plan, mode, say=say)
        except WandbError as error:
            say(f"{error} Going on offline; {_sync_hint(plan.run_dir)}.")
    if mode != "disabled":
        try:
            return start_run(plan, "offline", say=say)
        except WandbError as error:
            say(f"{error} Going on without W&B; {_sync_hint(plan.run_dir)}.")
    return None


def fetch_last_row(plan: WandbSettings, timeout_s: float) -> Row | None:
    """The last row of ours that the server has of this run; None if it has none. Raises what ask_server raises."""
    variables = {"project": plan.settings.project, "entity": plan.settings.entity, "name": plan.run_id}
    answer = ask_server(LAST_ROW_QUERY, variables, timeout_s)
    bucket = (answer.get("model") or {}).get("bucket") or {}
    tail = [json.loads(line) for line in json.loads(bucket.get("historyTail") or "[]")]
    ours = [row for row in tail if "step" in row]
    return max(ours, key=lambda row: (row["step"], row.get("_step", 0)), default=None)


def journal_rows(run_dir: Path, *, after: int = 0) -> list[Row]:
    """The rows of metrics.jsonl, samples.jsonl and spikes.jsonl of the steps after a step, in the order in which they
    were logged."""
    rows = read_metrics(run_dir, after=after) + read_rows(run_dir / SAMPLES, after=after)
    rows += [spike_row(spike) for spike in read_spikes(run_dir) if spike.step > after]
    return sorted(rows, key=lambda row: (row["step"], row.get("time", 0)))


def spike_row(spike: SpikeRecord) -> Row:
    """A spike as a row, whose value is the record itself."""
    return {"step": spike.step, "tokens": spike.tokens, "time": spike.time, SPIKE_TABLE: spike}


def mark_superseded(run_dir: Path, *, keep: Path | None = None) -> int:
    """Marks offline folders as synced, except `keep`: their rows are elsewhere, and `wandb sync` would double them."""
    files = [file for file in run_dir.glob("wandb/offline-run-*/*.wandb") if file.parent != keep]
    for file in files:
        file.with_name(f"{file.name}.synced").touch()
    return len(files)


def _history(row: Row) -> dict[str, Any]:
    """A journal's row as W&B logs it, at the time when it was measured."""
    import wandb

    logged = {key: value for key, value in row.items() if key not in ("time", "name", "text")}
    if "text" in row:
        logged[f"samples/{row['name']}"] = wandb.Html(f"<pre>{html.escape(row['text'])}</pre>", inject=False)
    if SPIKE_TABLE in row:
        columns, rows = row[SPIKE_TABLE].table()
        logged[SPIKE_TABLE] = wandb.Table(columns=columns, data=rows)
    if "time" in row:
        logged["_timestamp"] = row["time"]
    return logged


def _history_keys(row: Row) -> set[str]:
    return {f"samples/{row['name']}"} if "text" in row else set(row)


def _metric_keys(keys: Row | set[str]) -> set[str]:
    return {key for key in keys if not key.startswith("_") and key not in AXES}


def _sync_hint(run_dir: Path) -> str:
    return f"`banyan sync {run_dir}` uploads it later"
