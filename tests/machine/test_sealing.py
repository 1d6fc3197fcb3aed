"""Encrypted files: read from anywhere as they were written, and refused where a bit is another."""

import base64
import io
import os
import secrets

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.keys import using, write_key
from trainer.errors import InputError
from trainer.machine.durable import replacing, write_bytes
from trainer.machine.json_file import open_regular, read_regular
from trainer.machine.sealed_folder import seal_folder
from trainer.machine.sealing.data_key import DataKey, WrappedKey
from trainer.machine.sealing.keyring import Keyring
from trainer.machine.sealing.plaintext import is_sealed, map_plaintext, plaintext_size
from trainer.machine.sealing.sealed_file import (
    BLOCK,
    HEADER,
    TAG,
    SealedContent,
    SealedReader,
    SealedWriter,
    sealed_size,
)
from trainer.machine.sealing.user_key import KeyProblem, KeySource, UserKey

KEY = DataKey(bytes(range(32)))
LONG = secrets.token_bytes(2 * BLOCK + 1000)
SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(LONG))


def sealed(text, key=KEY, pieces=(10**9,)):
    file = io.BytesIO()
    writer = SealedWriter(file, key)
    place = 0
    for piece in pieces:
        writer.write(text[place : place + piece])
        place += piece
    assert writer.tell() == min(place, len(text))
    writer.write(text[place:])
    writer.finish()
    return file.getvalue()


def opened(stored, key=KEY):
    return SealedContent(np.frombuffer(stored, np.uint8), key, "shard.tar")


STORED = sealed(LONG)
CONTENT = opened(STORED)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_of_any_size_comes_back(size):
    stored = sealed(LONG[:size])
    assert len(stored) == sealed_size(size) == HEADER + size + TAG * max(1, -(-size // BLOCK))
    assert LONG[:200] not in stored
    content = opened(stored)
    assert len(content) == size
    assert content[:].tobytes() == LONG[:size]
    assert io.BufferedReader(SealedReader(content)).read() == LONG[:size]


@given(pieces=st.lists(st.integers(0, BLOCK + 5), max_size=6))
@settings(max_examples=20, deadline=None)
def test_a_file_may_be_written_in_any_pieces(pieces):
    assert opened(sealed(LONG, pieces=pieces))[:].tobytes() == LONG


@given(start=st.integers(0, len(LONG)), count=st.integers(0, BLOCK + 10))
@settings(max_examples=50, deadline=None)
def test_any_bytes_are_read_from_anywhere(start, count):
    assert CONTENT[start : start + count].tobytes() == LONG[start : start + count]
    reader = SealedReader(CONTENT)
    reader.seek(start)
    assert io.BufferedReader(reader, 100).read(count) == LONG[start : start + count]


def test_bytes_at_any_offsets_are_read_at_once():
    offsets = np.random.default_rng(0).integers(0, len(LONG), (50, 3))
    assert np.array_equal(CONTENT[offsets], np.frombuffer(LONG, np.uint8)[offsets])
    with pytest.raises(IndexError):
        CONTENT[np.array([len(LONG) + BLOCK])]


def blocks_of(stored):
    step = BLOCK + TAG
    return [stored[:HEADER], *(stored[at : at + step] for at in range(HEADER, len(stored), step))]


def damaged():
    """Files that somebody has changed, by what was done."""
    head, first, second, last = blocks_of(STORED)
    other = blocks_of(sealed(LONG))
    yield "swapped", head + second + first + last
    yield "cut at a block", head + first + second
    yield "cut within a block", STORED[:-1]
    yield "without its first block", head + second + last
    yield "of another file", head + other[1] + second + last
    yield "another's end", head + first + second + other[3]
    yield "went on", STORED + last
    yield "only its header", head
    yield "less than its header", STORED[: HEADER - 1]
    draw = np.random.default_rng(1)
    for place in (*draw.integers(0, len(STORED), 30).tolist(), 8, 12, 16, 40, HEADER, len(STORED) - 1):
        changed = bytearray(STORED)
        changed[place] ^= 1 << int(draw.integers(8))
        yield f"bit of byte {place}", bytes(changed)


@pytest.mark.parametrize(("what", "stored"), list(damaged()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_changed_file_is_refused_in_a_line(what, stored):
    with pytest.raises(InputError) as refused:
        opened(stored)[:]
    assert str(refused.value).startswith("shard.tar: ")
    assert "\n" not in str(refused.value)


def test_a_cut_file_is_refused_when_it_is_opened():
    head, first, second, _ = blocks_of(STORED)
    with pytest.raises(InputError, match="block 1 isn't what was encrypted"):
        opened(head + first + second)


def test_equal_texts_are_encrypted_with_keys_of_their_own():
    stored = [sealed(b"the same") for _ in range(200)]
    assert (
        len({content[HEADER - 32 : HEADER] for content in stored}) == 200
    )  # salts: no nonce is used under a key twice
    assert len({content[HEADER:] for content in stored}) == 200


def test_another_data_key_opens_nothing():
    with pytest.raises(InputError):
        opened(STORED, DataKey.fresh())


def test_a_data_key_is_opened_by_the_key_that_wraps_it_alone():
    user = UserKey(secrets.token_bytes(32))
    wrapped = WrappedKey.of(KEY, user)
    assert wrapped.unwrapped(user, "data", "key") == KEY
    for wrong in (UserKey(secrets.token_bytes(32)),):
        with pytest.raises(KeyProblem, match="encrypted with another key than the file"):
            wrapped.unwrapped(wrong, "data", "the file")
    with pytest.raises(KeyProblem):
        WrappedKey(DataKey.fresh().id.hex(), user.name, wrapped.wrapped).unwrapped(user, "data", "key")
    assert KEY.secret.hex() not in repr(wrapped) + repr(user) + repr(KEY)


# ------------------------------------------------------------------------------------------------------ users' keys


def test_a_key_is_hexadecimal_or_base64(tmp_path, monkeypatch):
    secret = secrets.token_bytes(32)
    for text in (secret.hex(), secret.hex().upper() + "\n", base64.b64encode(secret).decode(), " " + secret.hex()):
        (tmp_path / "key").write_text(text)
        (tmp_path / "key").chmod(0o600)
        monkeypatch.setenv("THE_KEY", text)
        sources = ((str(tmp_path / "key"), None, None), (None, "THE_KEY", None), (None, None, f"cat {tmp_path}/key"))
        for source in sources:
            assert KeySource.of(*source, "data.encryption").read().secret == secret


@pytest.mark.parametrize(
    "text", ["", "00" * 31, "00" * 33, "zz" * 32, base64.b64encode(bytes(31)).decode(), "0" * 10_000, "\x00\xff"]
)
def test_what_is_no_key_is_refused(tmp_path, text):
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyProblem, match="no key; it must be 32 bytes") as refused:
        KeySource.of(str(path), None, None, "data.encryption").read()
    assert "\n" not in str(refused.value)
    assert not text or text[:20] not in str(refused.value)


def test_keys_that_cant_be_had_are_named(tmp_path):
    def refusal(*given):
        with pytest.raises(KeyProblem) as refused:
            KeySource.of(*given, "data.encryption").read()
        return str(refused.value)

    key = write_key(tmp_path / "key")
    key.chmod(0o640)
    assert "others may read it (mode 0640); chmod 600" in refusal(str(key), None, None)
    assert "No such file" in refusal(str(tmp_path / "none"), None, None)
    assert "can't be read (Is a directory)" in refusal(str(tmp_path), None, None)
    assert "NO_SUCH_VARIABLE: the environment has no such variable" in refusal(None, "NO_SUCH_VARIABLE", None)
    assert "ended with code 1" in refusal(None, None, "false")
    assert "can't be run" in refusal(None, None, "no-such-command at all")
    assert "can't be run" in refusal(None, None, "'unclosed")
    assert "key_file and data.encryption.key_env: give exactly one" in refusal(str(key), "HOME", None)
    with pytest.raises(KeyProblem, match=r"encrypted; give its key by data\.encryption\.key_file=FILE"):
        Keyring().user_key("data")


# ----------------------------------------------------------------------------------------------------------- folders


def test_files_of_a_folder_are_encrypted_by_whoever_writes_them(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with using(write_key(tmp_path / "key")):
        seal_folder(folder)
        (folder / "below").mkdir()
        write_bytes(folder / "below" / "text", b"a secret")
        write_bytes(folder / "manifest.json", b"{}")
        write_bytes(tmp_path / "elsewhere", b"no secret")
        with pytest.raises(TypeError), replacing(folder / "never") as file:
            file.write("a text")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "below" / "text").stat().st_mode & 0o777 == 0o600
    assert (folder / "below").stat().st_mode & 0o777 == 0o700
    assert is_sealed(folder / "below" / "text")
    assert (folder / "manifest.json").read_bytes() == b"{}"
    assert (tmp_path / "elsewhere").read_bytes() == b"no secret"
    assert not (folder / "never").exists()
    with pytest.raises(KeyProblem, match="encrypted; give its key"):
        read_regular(folder / "below" / "text")
    with using(write_key(tmp_path / "other")), pytest.raises(KeyProblem, match="another key than"):
        read_regular(folder / "below" / "text")
    with using(tmp_path / "key"):
        assert read_regular(folder / "below" / "text") == b"a secret"
        assert plaintext_size(folder / "below" / "text") == 8
        assert map_plaintext(folder / "below" / "text", np.uint8, 2, (3,)).tobytes() == b"sec"
        with open_regular(folder / "below" / "text") as file:
            assert (file.read(1), file.seek(-2, os.SEEK_END), file.read()) == (b"a", 6, b"et")


def test_two_processes_that_begin_a_folder_have_one_key(tmp_path):
    key, folder = write_key(tmp_path / "key"), tmp_path / "data"
    folder.mkdir()
    with using(key):
        first = seal_folder(folder)
    with using(key):
        assert seal_folder(folder).keys == first.keys
        both = seal_folder(folder, ("checkpoints/*",))
    assert both.encrypted == ("*", "checkpoints/*")
    assert both.keys == first.keys


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "banyan-encryption", "version": 1, "keys": [3]}', "x" * 10**5]
)
def test_a_broken_envelope_is_refused(tmp_path, content):
    (tmp_path / "encryption.json").write_text(content)
    with using(write_key(tmp_path / "key")), pytest.raises(InputError, match=r"no envelope of a key|holds no key"):
        write_bytes(tmp_path / "text", b"a secret")
