"""A cluster of launch=ray's own, on this machine: nobody else reaches it, and nothing of it stays."""

import os
import signal
import stat
import subprocess
import sys
import time

import psutil
import pytest

pytest.importorskip("ray")
MARK = "BANYAN_TEST_OF_A_LOCAL_CLUSTER"


def start(folder):
    """A driver of a cluster of its own; it ends when `gate` has been written to."""
    (folder / "home").mkdir()
    os.mkfifo(folder / "gate")
    program = (
        "import sys\nfrom launch.ray import cluster\n"
        "with cluster.connected():\n"
        "    import ray; ray.get(ray.remote(lambda: 1).remote())\n"
        f"    print('ready', flush=True); open({str(folder / 'gate')!r}).read()\n"
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    variables |= {"HOME": str(folder / "home"), MARK: str(folder), "RAY_TMPDIR": "/tmp"}
    return subprocess.Popen([sys.executable, "-c", program], env=variables, stdout=subprocess.PIPE, text=True)


def processes_of(folder):
    """Those of the cluster, by what they were started with."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def folders_of(folder):
    """The cluster's folders for temporary files, by what its processes were told."""
    words = {word for process in processes_of(folder) for word in process.cmdline() if "/ray-" in word}
    return {"/".join(word[word.index("/") :].split("/")[:3]) for word in words if word.startswith(("/", "--temp"))}


def wait_until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


@pytest.mark.full
@pytest.mark.parametrize("killed", [False, True])
def test_it_is_reached_by_nobody_else_and_leaves_nothing(tmp_path, killed):
    driver = start(tmp_path)
    assert driver.stdout.readline() == "ready\n"
    running = processes_of(tmp_path)
    listening = [c.laddr.ip for p in running for c in p.net_connections() if c.status == psutil.CONN_LISTEN]
    assert len(listening) >= 4
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    tokens = {process.environ()["RAY_AUTH_TOKEN"] for process in running if "RAY_AUTH_TOKEN" in process.environ()}
    assert len(tokens) == 1
    assert len(tokens.pop()) == 64
    (folder,) = folders_of(tmp_path)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert not (tmp_path / "home" / ".ray").exists()
    if killed:
        driver.send_signal(signal.SIGKILL)
    else:
        (tmp_path / "gate").write_text("")
    assert driver.wait(timeout=60) == (-signal.SIGKILL if killed else 0)
    wait_until(lambda: not os.path.exists(folder) and not processes_of(tmp_path))
