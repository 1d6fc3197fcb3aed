"""Alerts of what a run can't tell itself: that it failed, as whoever started its ranks has seen it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from launch import failure
from launch.failure import Failure
from launch.verbs import Verb
from trainer.config.alerts import CRASH, STALL
from trainer.config.run import Track
from trainer.errors import ConfigError, HangError, InputError
from trainer.machine.interrupt import Interrupted
from trainer.track.alerts import Alerter

SILENT = (Interrupted.__name__, KeyboardInterrupt.__name__)  # whoever asked for the end knows of it


@contextlib.contextmanager
def alerting(verb: Verb, config: Any) -> Iterator[None]:
    """While a verb that trains runs, failures that are shown are told to whoever track.alerts names.

    A rank under one of our launchers shows nothing, and leaves that to the launcher.
    """
    if not verb.trains or not config.track.alerts.is_on or failure.FILE_VARIABLE in os.environ:
        yield
        return
    from trainer.run.launched_folder import locate_launched

    def listen(failed: Failure) -> None:
        tell(failed, config.track, locate_launched(config))

    failure.listeners.append(listen)
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        listen(failure.of_exception(error))
        raise
    finally:
        failure.listeners.remove(listen)


def tell(failed: Failure, track: Track, run_dir: Path) -> None:
    """Raises the alert of a failure, and waits until it is delivered.

    What is refused before the run has begun is for whoever typed the command.
    """
    refused = failed.kind in (ConfigError.__name__, InputError.__name__)
    if failed.kind in SILENT or not run_dir.is_dir() or (refused and not (run_dir / "metrics.jsonl").exists()):
        return
    alerter = Alerter(track.alerts, run_dir, say=lambda line: print(f"banyan: {line}", flush=True))
    if track.alerts.wandb:
        from trainer.track.sinks.wandb_alert import alert_of_run

        alerter.add_way("W&B", partial(alert_of_run, run_dir, track.wandb))
    alerter.alert(STALL if failed.kind == HangError.__name__ else CRASH, failed.message)
    alerter.finish()
