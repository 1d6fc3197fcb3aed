"""`banyan data trace X [FOLDER …] [format=json]`: what became of data, and what a model was made from."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.errors import ConfigError
from trainer.machine.terminal import one_line, show
from trainer.run.subcommand import split_arguments
from trainer.run.trace.follow import trace
from trainer.run.trace.survey import survey_folders
from trainer.run.trace.words import trace_lines

USAGE = "banyan data trace FINGERPRINT|HASH|FILE:RECORD|FOLDER [FOLDER_TO_LOOK_IN …] [format=json]"


def trace_data(arguments: list[str]) -> int:
    """Prints it; the exit code."""
    named, given = split_arguments(arguments, {"format": "text"}, USAGE)
    if not named:
        raise ConfigError(f"trace takes a fingerprint, a document or a folder: {USAGE}.")
    if given["format"] not in ("text", "json"):
        raise ConfigError(f"format={given['format']}: choose text or json.")
    wanted, *folders = named
    found = trace(wanted, survey_folders([Path(folder).expanduser() for folder in folders or [str(Path.cwd())]]))
    if given["format"] == "json":
        print(json.dumps(found.to_json(), indent=1, ensure_ascii=True))
    else:
        for line in trace_lines(found):
            show(one_line(line))
    return 0
