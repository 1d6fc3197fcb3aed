"""`banyan serve detect text=FILE path=FOLDER|run.dir=RUN [serve.watermark_key=N …]`: is a text marked?"""

from __future__ import annotations

import json
from pathlib import Path

from trainer.config.guards import Guards
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import local_folder
from trainer.run.directory import load_run_tokenizer, read_config, require_run_dir
from trainer.serve.commands.arguments import read_arguments
from trainer.serve.watermark import FEWEST_TOKENS, Mark

KEYS = ("text", "path", "run.dir", "serve.watermark_key", "serve.watermark_fraction", "z")
USUAL_Z = 4.0
LONGEST = 4 * 2**20  # bytes


def main(arguments: list[str]) -> int:
    """Prints the reading and the verdict."""
    given = read_arguments("detect", KEYS, arguments)
    if "text" not in given or ("run.dir" in given) == ("path" in given):
        raise ConfigError("banyan serve detect: give text=FILE, and path=FOLDER or run.dir=RUN of the model.")
    usual = Guards()
    key = _number("serve.watermark_key", given, usual.watermark_key, low=1, high=2**40)
    fraction = _number("serve.watermark_fraction", given, usual.watermark_fraction, low=0.01, high=0.99)
    threshold = _number("z", given, USUAL_Z, low=0, high=100)
    tokenizer, vocab_size = _model(given)
    ids = tokenizer.encode(_text(given["text"]))
    if len(ids) < FEWEST_TOKENS:
        raise InputError(f"text={given['text']}: {len(ids)} tokens; give {FEWEST_TOKENS} at least, better 200.")
    reading = Mark(int(key), usual.watermark_bias, fraction, vocab_size).detector().read(ids)
    verdict = "marked" if reading.z > threshold else "no mark found"
    share = f"{reading.favoured / reading.pairs:.0%}; {fraction:.0%} in unmarked text"
    print(
        f"{verdict}: {reading.favoured:,} of {reading.pairs:,} distinct pairs of tokens are favoured ({share}), "
        f"z {reading.z:.1f}, p {reading.p:.1e}"
    )
    return 0


def _model(given: dict[str, str]) -> tuple[Tokenizer, int]:
    """The tokenizer, and how many logits the model has."""
    if "run.dir" in given:
        run_dir = require_run_dir(given["run.dir"])
        return load_run_tokenizer(run_dir), int(read_config(run_dir).model.vocab_size or 0)
    folder = local_folder(given["path"])
    try:
        size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"path={given['path']}: no config.json with a vocab_size; give a Hugging Face folder."
        ) from error
    return load_tokenizer(folder), int(size)


def _text(name: str) -> str:
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > LONGEST:
            raise InputError(f"text={name}: longer than {LONGEST:,} bytes; give a part of it.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"text={name}: can't be read as UTF-8 text ({error}).") from error


def _number(key: str, given: dict[str, str], usual: float, *, low: float, high: float) -> float:
    try:
        value = float(given.get(key, usual))
    except ValueError as error:
        raise ConfigError(f"{key}={given[key]}: must be a number.") from error
    if not low <= value <= high:
        raise ConfigError(f"{key}={given[key]}: must be at least {low:g} and at most {high:g}.")
    return value
