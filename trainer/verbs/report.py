"""Writes the card of prepared data: what is in it, where it came from, what was taken out and why.

    banyan report DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …

DATA_DIR is an output of prepare, or a folder of token shards. The card is card.html, one page that needs nothing else,
and DATA_CARD.md; both are written into the output unless another folder is named. With a key of W&B's, or where
track.wandb.mode or WANDB_MODE asks for it, card and data become an artifact there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config import Wandb
from trainer.data.tokens.manifest import Manifest, datasets_in, output_of, read_manifest
from trainer.errors import ConfigError
from trainer.machine.durable import make_folder, write_text
from trainer.machine.terminal import one_line, show
from trainer.report.data_card.gather import gather_card
from trainer.report.data_card.markdown import card_as_markdown
from trainer.report.data_card.page import card_as_html
from trainer.run.lineage import data_references
from trainer.run.wandb_overrides import wandb_settings
from trainer.track.lineage import CARD_FILES, data_artifact
from trainer.track.sinks.wandb_run import WandbSettings, asked_mode, start_run

USAGE = "banyan report DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …"
OUTPUT = "output="
PAGE, MARKDOWN = CARD_FILES
FINISH_TIMEOUT_S = 120.0  # the longest wait for the upload


def main(arguments: list[str]) -> int:
    """The verb: gather what is known, write it twice, say where it is."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\n{(__doc__ or '').split('…', 1)[1].strip()}")
        return 0
    folders = [argument for argument in arguments if "=" not in argument]
    if len(folders) != 1:
        raise ConfigError(f"report takes one folder of prepared data, {len(folders)} given: {USAGE}.")
    wanted = [argument.removeprefix(OUTPUT) for argument in arguments if argument.startswith(OUTPUT)]
    typed = [argument for argument in arguments if "=" in argument and not argument.startswith(OUTPUT)]
    settings = wandb_settings({}, typed, "report")
    folder = Path(folders[0]).expanduser()
    card = gather_card(folder, say=lambda line: show(one_line(line)))
    output = Path(wanted[-1]).expanduser() if wanted else output_of(folder)
    make_folder(output)
    for name, text in ((PAGE, card_as_html(card)), (MARKDOWN, card_as_markdown(card))):
        write_text(output / name, text)
    show(one_line(f"page       {output / PAGE}"))
    show(one_line(f"markdown   {output / MARKDOWN}"))
    mode = asked_mode(settings)
    return 0 if mode is None else _record([read_manifest(each) for each in datasets_in(folder)], output, settings, mode)


def _record(manifests: list[Manifest], output: Path, settings: Wandb, mode: str) -> int:
    """Logs the data, with its card, as an artifact that a W&B run of its own has made; the exit code."""
    (reference,) = data_references(manifests)
    artifact = dataclasses.replace(data_artifact(reference), files=(output / PAGE, output / MARKDOWN))
    plan = WandbSettings(
        run_dir=output,
        name=artifact.name,
        settings=settings,
        config={"data": dataclasses.asdict(reference)},
        finish_timeout_s=FINISH_TIMEOUT_S,
    )
    run = start_run(plan, mode, say=print)
    logged = run.record_artifact(artifact, is_input=False)
    complete = run.close(exit_code=0, summary={"documents": reference.documents, "tokens": reference.tokens})
    if mode == "online":
        show(one_line(f"artifact   {artifact.name}: {run.url}"))
        return 0 if complete and logged else 1
    show(one_line(f"artifact   {artifact.name}; upload it with: wandb sync {run.folder}"))
    return 0
