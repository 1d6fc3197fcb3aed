"""`banyan serve reload run.dir=NEW|path=FOLDER [checkpoint.step=N] [serve.port=P]`: the server goes over to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.errors import ConfigError
from trainer.serve.commands.arguments import number_of, port_of, read_arguments
from trainer.serve.control import tell_server

KEYS = ("run.dir", "path", "checkpoint.step", "serve.port")


def main(arguments: list[str]) -> int:
    """Returns once the other model answers, or is refused."""
    given = read_arguments("reload", KEYS, arguments)
    if ("run.dir" in given) == ("path" in given):
        raise ConfigError("banyan serve reload: give run.dir=RUN or path=FOLDER, one of them.")
    request: dict[str, Any] = {"do": "reload"}
    for key, name in (("run.dir", "run_dir"), ("path", "path")):
        if key in given:
            is_hub = given[key].startswith("hf://")
            request[name] = given[key] if is_hub else str(Path(given[key]).expanduser().absolute())
    if "checkpoint.step" in given:
        request["step"] = number_of("checkpoint.step", given)
    print(tell_server(port_of(given), request))
    return 0
