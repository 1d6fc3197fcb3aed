"""`banyan data index`: without data.output the indices of token shards anew; with it, an index of tars of others.

    banyan data index 's3://bucket/{000000..000999}.tar' data.output=DIR data.tokenizer.path=…

It runs where prepare runs: here in processes, on Ray (launch=ray), or shared out among the elements of a SLURM array.
"""

from __future__ import annotations

from dataclasses import replace

from launch.cli import check, run_items, take_key
from launch.verbs import VERBS
from trainer.config.encryption import SECTION
from trainer.errors import ConfigError
from trainer.machine import credentials

USAGE = "banyan data index DIR, or banyan data index 'PATTERN' … data.output=DIR data.tokenizer.path=TOKENIZER"


def main(arguments: list[str]) -> int:
    """Runs either; the exit code."""
    if arguments[:1] in (["-h"], ["--help"]):
        from trainer.verbs import data

        return data.main(["--help"])
    typed = [argument for argument in arguments if "=" in argument and "/" not in argument.partition("=")[0]]
    if not any(argument.startswith("data.output=") for argument in typed):
        if any(not argument.startswith(f"{SECTION}.") for argument in typed):
            raise ConfigError(f"data.output is not set; usage: {USAGE}.")
        from trainer.verbs import data

        return data.main(take_key(["index", *arguments]))
    from launch.compose import compose

    patterns = [argument for argument in arguments if argument not in typed]
    for pattern in patterns:
        if pattern.startswith("-"):
            raise ConfigError(f"{pattern}: no such option; usage: {USAGE}.")
        credentials.check_url("data.input", pattern)
    if any(argument.startswith(f"{SECTION}.") for argument in typed):
        raise ConfigError(f"{SECTION} is for data that prepare writes: an index leaves others' tars as they are.")
    config = compose("prepare", [*typed, *(["data.input=[tars]"] if patterns else [])])
    if patterns:
        config = replace(config, data=replace(config.data, input=patterns))
    verb = replace(VERBS["prepare"], module="trainer.verbs.index")
    check(verb, config, 1)
    return run_items(verb, config)
