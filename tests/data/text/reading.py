"""What tests of reading share: find, read, write archives, and look at a refusal."""

import io
import tarfile

import pytest

from trainer.data.text.documents import read_documents
from trainer.data.text.sources import find_sources
from trainer.errors import InputError


def find(*inputs, include=(), exclude=(), output=None):
    return find_sources([str(given) for given in inputs], list(include), list(exclude), output or inputs[0] / "none")


def read(path, text_field="text", most_bytes=2**20, **search):
    """All records of all sources at `path`."""
    found = find(path, **search)
    return [document for source in found.sources for _, document in read_documents(source, text_field, most_bytes)]


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def assert_one_line(error, *parts):
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


def assert_refused(path, *parts, **how):
    """That reading `path` is refused in one line with these parts."""
    with pytest.raises(InputError) as error:
        read(path, **how)
    assert_one_line(error, *parts)
