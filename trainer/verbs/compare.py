"""Tells which differences between two evaluations are more than noise: `banyan evaluate compare A B`.

    banyan evaluate compare A B [output=FILE.md|FILE.html] [resamples=N]

A and B are folders that evaluate.output named, or run directories, whose newest evaluation is taken. Each figure that
both have is compared on the same documents, by a paired bootstrap. The table goes to standard output as Markdown;
output= writes it to a file, as a page of HTML where the name ends so.
"""

from __future__ import annotations

from pathlib import Path

from trainer.errors import ConfigError, InputError, require
from trainer.evaluate.comparison import as_html, as_markdown, compare_evaluations
from trainer.evaluate.tasks.results import FILE
from trainer.machine.durable import write_text

USAGE = "banyan evaluate compare A B [output=FILE.md|FILE.html] [resamples=N]"
DEFAULTS = {"output": "", "resamples": "10000"}


def main(arguments: list[str]) -> int:
    """The command; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(f"usage: {USAGE}\n\n{(__doc__ or '').split('[resamples=N]', 1)[1].strip()}")
        return 0
    folders = [argument for argument in arguments if "=" not in argument]
    given = dict(DEFAULTS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals:
            require(key in DEFAULTS, f"{argument}: compare has no such key; there are {', '.join(DEFAULTS)}.")
            given[key] = value
    require(len(folders) == 2, f"compare takes two evaluations, {len(folders)} given: {USAGE}.")
    resamples = given["resamples"]
    if not resamples.isdecimal() or not 100 <= int(resamples) <= 10**6:
        raise ConfigError(f"resamples={resamples}: give a number from 100 to 1000000.")
    first, second = (_evaluation(Path(folder).expanduser()) for folder in folders)
    compared = compare_evaluations(first, second, int(resamples))
    print(as_markdown(compared), end="")
    if given["output"]:
        path = Path(given["output"]).expanduser()
        write_text(path, as_html(compared) if path.suffix == ".html" else as_markdown(compared))
        print(f"\nwritten  {path}")
    return 0


def _evaluation(folder: Path) -> Path:
    """The folder of an evaluation: the one given, or the newest of a run."""
    if folder.is_file() or (folder / FILE).is_file():
        return folder
    found = sorted(folder.glob(f"evaluations/*/{FILE}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(
            f"{folder}: no {FILE} there or under evaluations/; run banyan evaluate with evaluate.tasks first."
        )
    return found[-1].parent
