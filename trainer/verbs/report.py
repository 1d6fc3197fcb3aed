"""Writes the card of prepared data: what is in it, where it came from, what was taken out and why.

    banyan report DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …

DATA_DIR is an output of prepare, or a folder of token shards. The card is card.html, one page that needs nothing else,
and DATA_CARD.md.
"""

from __future__ import annotations

from pathlib import Path

from trainer.errors import ConfigError
from trainer.machine.durable import make_folder, write_text
from trainer.machine.terminal import one_line, show
from trainer.report.data_card.gather import gather_card, output_of
from trainer.report.data_card.markdown import card_as_markdown
from trainer.report.data_card.page import card_as_html

USAGE = "banyan report DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …"
PAGE, MARKDOWN = "card.html", "DATA_CARD.md"


def main(arguments: list[str]) -> int:
    """The verb: gather what is known, write it twice, say where it is."""
    if arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n\n{__doc__.partition('    banyan')[2].partition(chr(10))[2].strip()}")
        return 0
    folders = [argument for argument in arguments if "=" not in argument]
    settings = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if len(folders) != 1:
        raise ConfigError(f"report takes one folder of prepared data, {len(folders)} given: {USAGE}.")
    folder = Path(folders[0]).expanduser()
    output = Path(settings.pop("output", str(output_of(folder)))).expanduser()
    card = gather_card(folder, say=lambda line: show(one_line(line)))
    make_folder(output)
    write_text(output / PAGE, card_as_html(card))
    write_text(output / MARKDOWN, card_as_markdown(card))
    show(one_line(f"page       {output / PAGE}"))
    show(one_line(f"markdown   {output / MARKDOWN}"))
    return 0
