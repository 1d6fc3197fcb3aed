"""Datasets to break, and the line that refuses them."""

import json

import pytest

from trainer.errors import ConfigError, InputError


def edit_manifest(folder, change):
    """Changes what manifest.json says."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def error_line(act, *arguments):
    """The one line that `act` refuses with."""
    with pytest.raises((InputError, ConfigError)) as error:
        act(*arguments)
    line = str(error.value)
    assert line.isprintable()
    assert len(line) < 700
    return line
