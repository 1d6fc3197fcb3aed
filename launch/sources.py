"""How Hydra reads a user's own folder of groups (--config-dir): as its own source does, minus what trips people up."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.sources_registry import SourcesRegistry
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from omegaconf import OmegaConf

from trainer.errors import ConfigError

GLOBAL = "# @package _global_"


class UserFolder(FileConfigSource):
    """A folder of YAML files. A byte-order mark, as Windows editors leave, is dropped; experiments must be global."""

    @staticmethod
    def scheme() -> str:
        """What its URLs begin with."""
        return "banyan"

    def load_config(self, config_path: str) -> ConfigResult:
        """A file with the header that names its package. ConfigError where it can't be what it is meant to be."""
        path = Path(self.path, self._normalize_file_name(config_path))
        if not path.is_file():
            raise ConfigLoadError(f"Config not found : {path}")
        text = _read(path)
        stream = StringIO(text)
        stream.name = str(path)  # for YAML's own errors
        return ConfigResult(
            config=OmegaConf.load(stream),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=_header(text, path, is_global=config_path.startswith("experiment/")),
        )


def register_source() -> None:
    """Makes the source known to Hydra."""
    SourcesRegistry.instance().register(UserFolder)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} isn't UTF-8; save the file as UTF-8.") from error


def _header(text: str, path: Path, *, is_global: bool) -> dict[str, str | None]:
    """What the comments at the beginning of the file mean to Hydra."""
    try:
        header = ConfigSource._get_header_dict(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}; the line for an experiment is `{GLOBAL}`.") from error
    if is_global and header["package"] != "_global_":
        raise ConfigError(
            f"{path}: its first line must be `{GLOBAL}`; without it, its keys would be those of a section `experiment`."
        )
    return header
