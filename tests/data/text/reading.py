"""What tests of reading share: find, read, write archives, and look at a refusal."""

import io
import tarfile
from pathlib import Path

import pytest

from trainer.data.text.documents import read_documents
from trainer.data.text.reading import Reading
from trainer.data.text.sources import Input, find_sources
from trainer.errors import InputError


def find(*inputs, include=(), exclude=(), output=None, **reading):
    entries = [Input(str(given), reading=Reading(**reading)) for given in inputs]
    return find_sources(entries, list(include), list(exclude), output or Path("/nowhere"))


def read(path, text_field="text", most_bytes=2**20, account=None, **search):
    """All records of all sources at `path`."""
    found = find(path, text_field=text_field, most_bytes=most_bytes, **search)
    return [document for source in found.sources for _, document in read_documents(source, account)]


def write_tar(path, members):
    path.write_bytes(tar_of(members))
    return path


def tar_of(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, text in members:
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return content.getvalue()


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
