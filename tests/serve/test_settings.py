"""What a server is refused before it loads a model: wrong files, addresses and keys, each in a line that names it."""

import subprocess

import pytest

from launch.compose import compose
from trainer.errors import ConfigError
from trainer.serve.control import socket_path
from trainer.serve.keys import find_client, hash_key, read_keys
from trainer.serve.listener import listen
from trainer.serve.server import check_serving


def openssl(folder, command):
    subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings")
    openssl(path, "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem")
    openssl(path, "rsa -in key.pem -aes128 -passout pass:secret -out locked.pem")
    openssl(path, "genrsa -out other.pem 2048")
    (path / "keys.txt").write_text(f"\ufeffplain-key-of-ann\tann\n{hash_key('key-of-bob')}  bob\n")  # by some editor
    (path / "keys.txt").chmod(0o600)
    return path


def test_keys_are_read_as_editors_save_them(folder):
    ann, bob = read_keys(str(folder / "keys.txt"))
    assert (ann.name, bob.name) == ("ann", "bob")
    assert find_client([ann, bob], "Bearer plain-key-of-ann") is ann
    assert find_client([ann, bob], "Bearer key-of-bob") is bob
    assert find_client([ann, bob], f"Bearer {hash_key('key-of-bob')}") is None  # the hash in the file opens nothing


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, None, "can't be read .*No such file"),
        ("plain-key-of-ann", 0o644, "others may read the keys"),
        ("# nobody\n", 0o600, "no key in it"),
        ("short", 0o600, "line 1: a key of fewer than 8"),
        ("sha256:12 ann", 0o600, "line 1: no sha256 of 64"),
    ],
)
def test_files_of_keys_are_refused(tmp_path, content, mode, said):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(ConfigError, match=f"serve.keys={file}.*{said}"):
        read_keys(str(file))


@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("cert.pem", "locked.pem", "its unencrypted key"),  # and nobody is asked for its password
        ("cert.pem", "other.pem", "mismatch"),
        ("key.pem", "key.pem", "not a certificate"),
        ("none.pem", "key.pem", "serve.tls_cert=.*there is no such file"),
    ],
)
def test_files_of_tls_are_refused(folder, cert, key, said):
    keys = [f"serve.tls_cert={folder / cert}", f"serve.tls_key={folder / key}"]
    with pytest.raises(ConfigError, match=said):
        check_serving(compose("serve", keys))
    check_serving(compose("serve", [f"serve.tls_cert={folder / 'cert.pem'}", f"serve.tls_key={folder / 'key.pem'}"]))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("serve.host=192.0.2.1", "serve.host=192.0.2.1: not an address of this machine"),
        ("serve.host=no.such.host.invalid", "serve.host=no.such.host.invalid: no address"),
    ],
)
def test_addresses_of_others_are_refused(key, said):
    with pytest.raises(ConfigError, match=said):
        listen(compose("serve", [key]).serve)


@pytest.mark.parametrize("key", ["threads=2", "processes=2", "check_memory=false", "max_failures=9"])
def test_keys_about_ranks_are_refused(key):
    with pytest.raises(ConfigError, match=f"launch.{key.replace('false', 'False')}: it is about ranks"):
        check_serving(compose("serve", [f"launch.{key}"]))


def test_the_socket_file_is_where_a_folder_is(tmp_path, monkeypatch):
    """A job has the variables of the login node, whose folder its node lacks; sockets have short paths."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for missing in (tmp_path / "nowhere", tmp_path / ("x" * 100)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(missing))
        assert socket_path(8000).parents[1] == tmp_path
    (tmp_path / ("x" * 100)).mkdir()
    assert socket_path(8000).parents[1] == tmp_path
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "mine"))
    assert socket_path(8000).parents[1] == tmp_path / "mine"
