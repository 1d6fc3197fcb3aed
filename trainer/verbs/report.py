"""Writes a page of what was made: of a run, of several beside each other, of a sweep, or of prepared data.

    banyan report RUN_DIR [against=RUN_DIR] [output=FOLDER]
    banyan report RUN_DIR RUN_DIR … [output=FOLDER]
    banyan report DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …

RUN_DIR's page is RUN_DIR/report.html: curves, restarts, spikes with their documents, samples, layout, configuration,
and how that differs from the run's that `against` names. Of several runs it is comparison.html in the first's folder,
or in the folder of runs that is named instead; of a sweep's folder report.html there. DATA_DIR is an output of prepare,
or a folder of token shards: its card is
card.html and DATA_CARD.md. With a key of W&B's, or where track.wandb.mode or WANDB_MODE asks for it, card and data
become an artifact there. Every page needs nothing else, and no network.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from trainer.data.tokens.manifest import FILE as MANIFEST
from trainer.data.tokens.manifest import SPLITS, datasets_in, output_of, read_manifest
from trainer.errors import ConfigError, InputError
from trainer.machine.durable import make_folder, write_text
from trainer.machine.terminal import one_line, show
from trainer.report.data_card.gather import gather_card
from trainer.report.data_card.markdown import card_as_markdown
from trainer.report.data_card.page import card_as_html
from trainer.report.run_page.page import comparison_as_html, run_as_html
from trainer.report.run_page.record import RunRecord
from trainer.run.lineage import data_references
from trainer.run.recorded import record_data
from trainer.run.run_folders import find_runs, is_run, is_sweep
from trainer.run.wandb_overrides import wandb_settings
from trainer.track.lineage import CARD_FILES, data_artifact
from trainer.track.wandb_service import asked_mode

USAGE = (
    "banyan report RUN_DIR … [against=RUN_DIR] [output=FOLDER], or DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …"
)
OUTPUT, AGAINST = "output=", "against="
RUN_PAGE, COMPARISON = "report.html", "comparison.html"
PAGE, MARKDOWN = CARD_FILES


def main(arguments: list[str]) -> int:
    """The verb: a page of runs, of a sweep, or of data, by what the folder is; says where it is."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\n{(__doc__ or '').split('KEY=VALUE] …', 1)[1].strip()}")
        return 0
    folders = [argument for argument in arguments if "=" not in argument or Path(argument).is_dir()]
    typed = [argument for argument in arguments if argument not in folders]
    if not folders:
        raise ConfigError(f"report takes a folder of prepared data, a run directory or several, or a sweep: {USAGE}.")
    paths = [Path(folder).expanduser() for folder in folders]
    if all(is_run(path) or is_sweep(path) for path in paths) or len(paths) > 1:
        return _report_runs(paths, typed)
    if any(os.path.lexists(paths[0] / split / MANIFEST) for split in ("", *SPLITS)):
        return _report_data(paths[0], typed)
    return _report_runs(_runs_in(paths[0]), [f"{OUTPUT}{paths[0]}", *typed])


def _runs_in(folder: Path) -> list[Path]:
    """The runs in a folder of runs. ConfigError or InputError where there are none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; name a run directory, as runs/NAME, or prepared data.")
    try:
        return find_runs([str(folder)])
    except InputError as error:
        raise InputError(
            f"{folder}: no run directory, and none in it, and no prepared data (manifest.json is missing); name "
            'runs/NAME, or finish "banyan prepare" with the same command as before.'
        ) from error


def _report_runs(paths: list[Path], typed: list[str]) -> int:
    """The page of a run; of several, or of a sweep's trials, one beside the other."""
    from trainer.run.gather_run import gather_run
    from trainer.run.gather_sweep import gather_sweep

    settings = dict(argument.split("=", 1) for argument in typed)
    unknown = next((key for key in settings if key not in (OUTPUT[:-1], AGAINST[:-1])), None)
    if unknown is not None:
        raise ConfigError(f"{unknown}: no such setting of a run's report; there are output and against: {USAGE}.")
    against = settings.get("against")
    sweeps = [path for path in paths if is_sweep(path)]
    if against is not None and (len(paths) > 1 or sweeps):
        raise ConfigError(f"against={against}: for the page of one run; several are beside each other already.")
    say = _say
    if sweeps and len(paths) == 1:
        sweep = gather_sweep(paths[0], say=say)
        html = comparison_as_html(sweep.runs, title=sweep.title, extra=sweep.sections, what="trials")
        name = RUN_PAGE
    elif len(paths) == 1:
        other = gather_run(Path(against).expanduser(), in_full=False, say=say) if against is not None else None
        html, name = run_as_html(gather_run(paths[0], say=say), other), RUN_PAGE
    else:
        runs = [gather_run(path, in_full=False, say=say) for path in find_runs([str(path) for path in paths])]
        html, name = comparison_as_html(named_apart(runs), title=" · ".join(run.name for run in runs[:4])), COMPARISON
    output = Path(settings["output"]).expanduser() if "output" in settings else paths[0]
    make_folder(output)
    write_text(output / name, html)
    _say(f"page       {output / name}")
    return 0


def named_apart(runs: list[RunRecord]) -> list[RunRecord]:
    """Runs whose names differ: those of one name have their folders' names before it."""
    names = [run.name for run in runs]
    return [
        dataclasses.replace(run, name="/".join(Path(run.run_dir).absolute().parts[-2:]))
        if names.count(run.name) > 1
        else run
        for run in runs
    ]


def _say(line: str) -> None:
    show(one_line(line))


def _report_data(folder: Path, arguments: list[str]) -> int:
    """The card of prepared data, written twice."""
    wanted = [argument.removeprefix(OUTPUT) for argument in arguments if argument.startswith(OUTPUT)]
    typed = [argument for argument in arguments if not argument.startswith(OUTPUT)]
    settings = wandb_settings({}, typed, "report")
    card = gather_card(folder, say=_say)
    output = Path(wanted[-1]).expanduser() if wanted else output_of(folder)
    make_folder(output)
    for name, text in ((PAGE, card_as_html(card)), (MARKDOWN, card_as_markdown(card))):
        write_text(output / name, text)
    _say(f"page       {output / PAGE}")
    _say(f"markdown   {output / MARKDOWN}")
    mode = asked_mode(settings)
    if mode is None:
        return 0
    (reference,) = data_references([read_manifest(each) for each in datasets_in(folder)])
    artifact = dataclasses.replace(data_artifact(reference), files=(output / PAGE, output / MARKDOWN))
    return record_data(reference, artifact, output, settings, mode)
