"""Joining the ranks: who can reach them, what they tell each other, what a killed one leaves."""

import fcntl
import os
import pickle
import signal
import socket
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed

from tests.run_ranks import fail_ranks, pretrain, run_ranks, small_config
from trainer.errors import ConfigError, InputError, NonFiniteError
from trainer.ranks import messages, rendezvous
from trainer.ranks.extensions import choose_folder, fingerprint, load_cpu_op


def tell_where_it_listens(folder):
    from trainer.ranks.mesh import join

    mesh = join()
    sockets = psutil.Process().net_connections()
    listening = [c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN]
    (folder / f"{mesh.rank}-of-{mesh.world_size}").write_text("\n".join(listening))
    mesh.leave()
    return 0


def test_ranks_on_one_machine_listen_on_its_loopback_interface_alone(tmp_path):
    assert run_ranks(tell_where_it_listens, tmp_path, 1) == [0]
    assert run_ranks(tell_where_it_listens, tmp_path, 2) == [0, 0]
    found = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert len(found) == 3
    assert {address for addresses in found.values() for address in addresses} <= set(rendezvous.LOOPBACK)
    assert len(found["0-of-2"]) > len(found["1-of-2"])  # the store is seen


def train_without_pickles(config):
    """The verb, on a rank that neither makes nor reads a pickle for another."""
    from torch.distributed import distributed_c10d

    def refuse(*arguments):
        os.kill(os.getpid(), signal.SIGABRT)

    distributed_c10d._object_to_tensor = distributed_c10d._tensor_to_object = refuse
    return pretrain(config)


@pytest.mark.parametrize("changes", [{"parallel__zero_stage": 2}, {"parallel__tensor": 2}])
def test_no_rank_reads_what_another_has_pickled(corpus, tmp_path, changes):
    config = small_config(corpus, tmp_path / "run", train__steps=4, train__stop_at=2, evaluate__every=2, **changes)
    assert run_ranks(train_without_pickles, config, 2) == [85, 85]
    config.train.stop_at = None
    assert run_ranks(train_without_pickles, config, 2) == [0, 0]


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 3, 1.5, float("inf"), "a\udcff", [], (1, ("a", [None])), {"kind": "path", 3: Path("/x")}),
        (Path("runs/a b"), None),
        {1: {2: (3,)}},
    ],
)
def test_messages_bring_what_was_sent(value):
    decoded = messages.decode(messages.encode(value))
    assert decoded == value
    assert type(decoded) is type(value)


@pytest.mark.parametrize("error", [ConfigError("a"), InputError("b"), NonFiniteError("c")])
def test_messages_bring_errors_by_their_class(error):
    decoded = messages.decode(messages.encode((None, error)))[1]
    assert (type(decoded), str(decoded), decoded.exit_code) == (type(error), str(error), error.exit_code)


@pytest.mark.parametrize("value", [object(), {1, 2}, torch.zeros(1), b"x", ValueError("x")])
def test_what_has_no_form_is_not_sent(value):
    with pytest.raises(TypeError, match="can't tell each other"):
        messages.encode(value)


@pytest.mark.parametrize("message", [pickle.dumps(1), b"{}", b'{"kind": "os.system", "value": "x"}', b"\xff"])
def test_what_is_no_message_is_not_read(message):
    with pytest.raises((ValueError, KeyError)):
        messages.decode(message)


def describe(**changes):
    """A rank's environment."""
    return {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29999", **changes}


@pytest.mark.parametrize(
    "changes",
    [{"MASTER_PORT": "0"}, {"MASTER_PORT": "x"}, {"MASTER_PORT": "70000"}, {"MASTER_ADDR": "no.such.invalid"}],
)
def test_a_meeting_place_that_can_t_be_is_refused(changes):
    with pytest.raises(ConfigError, match="MASTER_"):
        rendezvous.open_store(describe(**changes), timedelta(seconds=1))


def test_a_port_that_another_has_is_named():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(ConfigError, match=f"MASTER_PORT={port}: another process listens there"):
            rendezvous.open_store(describe(MASTER_PORT=port, LOCAL_WORLD_SIZE="2"), timedelta(seconds=1))


def test_gloo_keeps_to_the_interface_of_the_meeting_place_unless_the_user_chose():
    one_machine, several, chosen = describe(LOCAL_WORLD_SIZE="2"), describe(LOCAL_WORLD_SIZE="1"), describe()
    chosen["GLOO_SOCKET_IFNAME"] = "ib0"
    for environment in (one_machine, several, chosen):
        rendezvous.keep_to_interface(environment)
    assert one_machine["GLOO_SOCKET_IFNAME"] == one_machine["NCCL_SOCKET_IFNAME"] == several["GLOO_SOCKET_IFNAME"]
    assert one_machine["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert "NCCL_SOCKET_IFNAME" not in several
    assert chosen["GLOO_SOCKET_IFNAME"] == "ib0"


def test_lock_file_left_by_a_killed_process_holds_nobody_up(corpus, tmp_path):
    root = choose_folder()
    (folder,) = root.glob("**/deepspeed_shm_comm")
    with (root / "banyan.lock").open("w") as guard:  # or ranks of other tests, which are past it, would wait for ever
        fcntl.flock(guard, fcntl.LOCK_EX)
        (folder / "lock").touch()
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "run"), 2) == [0, 0]
    with (root / "banyan.lock").open("w") as guard:  # ranks of other tests have one while they load the operator
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert not (folder / "lock").exists()


def test_each_environment_has_its_own_operators(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    first = choose_folder()
    assert first.parent == tmp_path
    assert choose_folder() == first  # told so by the process that started it
    (tmp_path / "c++").touch(mode=0o755)
    assert fingerprint({}) == first.name != fingerprint({"CXX": str(tmp_path / "c++")})
    monkeypatch.setattr("sys.prefix", "/another/environment")
    assert fingerprint({}) != first.name


def train_with_a_broken_compiler(config):
    os.environ.update(CXX="/bin/false", TORCH_EXTENSIONS_DIR=f"{config.run.dir}-operators")
    return pretrain(config)


def tries_other_ops(_):
    import deepspeed

    load_cpu_op()
    return int(len(deepspeed.ops.__compatible_ops__) != 1)


def test_no_other_op_of_deepspeed_s_is_tried():
    assert run_ranks(tries_other_ops, None, 1) == [0]


def test_a_compiler_that_can_t_is_told_in_a_line(corpus, tmp_path):
    codes, errors = fail_ranks(train_with_a_broken_compiler, small_config(corpus, tmp_path / "run"))
    assert codes == [1]
    assert "BanyanError: deepspeed_shm_comm can't be built" in errors[0]
