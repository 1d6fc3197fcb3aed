"""dashboard=FILE beside dashboard=CHOICE: a dashboard's specification in a file of the user's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from launch.groups import default_choices
from launch.overrides import unquoted
from trainer.config.dashboard import Dashboard, DashboardSettings
from trainer.config.stored import from_values, load_values
from trainer.config.values import check_values
from trainer.errors import ConfigError

GROUP = "dashboard"
FILE = f"{GROUP}.file"
ENDINGS = (".yaml", ".yml")
OF_COMMAND_LINE = ("output", "file")  # keys that a file doesn't hold


def with_dashboard_file(arguments: Sequence[str], folders: Sequence[Path]) -> tuple[list[str], Path | None]:
    """The arguments, dashboard.file naming the specification's file among them; and that file, if it is no choice.

    ConfigError where keys of a file's own are typed beside it.
    """
    typed = {name.lstrip("+"): unquoted(value) for name, _, value in (text.partition("=") for text in arguments)}
    chosen = typed.get(GROUP, default_choices(GROUP)[GROUP] or "")
    if not (chosen.endswith(ENDINGS) or "/" in chosen):
        places = [path for folder in folders if (path := folder / GROUP / f"{chosen}.yaml").is_file()]
        return [*arguments, *(f"{FILE}={path}" for path in places[-1:])], None
    for name in typed:
        if name.startswith(f"{GROUP}.") and name.removeprefix(f"{GROUP}.") not in OF_COMMAND_LINE:
            raise ConfigError(f"{name}: with {GROUP}={chosen} it stands in that file; set it there.")
    path = Path(chosen).expanduser()
    if not path.is_file():
        raise ConfigError(f"{GROUP}={chosen}: there is no such file.")
    others = [text for text in arguments if not text.lstrip("+").startswith(f"{GROUP}=")]
    return [*others, f"{FILE}={path}"], path


def read_dashboard(config: Dashboard, path: Path) -> Dashboard:
    """The configuration with the specification of a file, in which nothing is interpolated. ConfigError, naming it."""
    values = load_values(path)
    own = [key for key in OF_COMMAND_LINE if key in values]
    if own:
        raise ConfigError(f"{path}: {own[0]}: not of a file; give {GROUP}.{own[0]}=… on the command line.")
    try:
        spec = from_values(DashboardSettings, values)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}.") from error
    check_values(spec, f"{path}: ")
    return dataclasses.replace(
        config, dashboard=dataclasses.replace(spec, output=config.dashboard.output, file=str(path))
    )
