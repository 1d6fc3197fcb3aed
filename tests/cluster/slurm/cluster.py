"""A private SLURM cluster: munge, slurmctld and a slurmd per node, with fake GPUs; several fit on one machine.

    cluster = SlurmCluster(nodes=2, cpus=4, gpus=2)
    cluster.start()
    job = cluster.submit("--nodes=2", "--wrap", "srun hostname")     # "7"
    cluster.wait(job, until={"COMPLETED"}, timeout_s=60)             # the job as a dict, or TimeoutError with the logs
    cluster.kill_node("n2"); cluster.revive_node("n2")               # power cut and reboot
    cluster.stop()

run(command)             any command as on a login node, under a timeout; `inside` is its command line, for Popen
environment              what clients need: SLURM_CONF; the machine's own SLURM_* are left out
job(id), jobs(), steps(id)     dicts of `scontrol show`: JobState, Restarts, NodeList, Reason, …
start_now(id)            starts a requeued job that still waits
pids_on(node, id, rank)  processes of a job as the outside counts, to stop or kill
run_on(node, command)    on that node, as its administrator would
set_down(node)           as an administrator would; `set_up` ends it
clean_up()               cancels all jobs and brings every node back: after each test
tail_logs()              the ends of the daemons' logs

Nodes n1, n2, … are namespaces (host.py): each has an address, a host name and processes of its own; the controller's
namespace is the login node. Where namespaces can't be had, `isolated` is false, nodes are daemons on the loopback, and
there is no kill_node. Everything is under one folder of /tmp, and all of it dies with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.slurm.client import Client
from tests.cluster.slurm.host import LOGIN, NODE, TOOLS, Host, can_isolate, start_daemon
from tests.cluster.slurm.processes import PREFIX, cluster_name, kill, processes_of, remove_remains
from tests.cluster.slurm.settings import CONTROLLER, Shape, write_settings
from trainer.machine.host import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel", "squeue")
INSTALL = "apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge iproute2"


def find_obstacle() -> str | None:
    """Why no cluster can be started here and what to do, or None."""
    lacking = [name for name in (*PROGRAMS, *TOOLS) if shutil.which(name) is None]
    if lacking:
        return f"no {', '.join(lacking)} here: {INSTALL}"
    return None if os.getuid() == 0 else "a private SLURM cluster must be started by root"


class SlurmCluster(Client):
    """See the head of this file."""

    def __init__(self, nodes: int = 2, cpus: int = 4, gpus: int = 2, *, isolated: bool | None = None) -> None:
        self.isolated = can_isolate() if isolated is None else isolated
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._sizes = cpus, gpus
        self._hosts: dict[str, Host] = {}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts all daemons; returns when every node is idle."""
        remove_remains()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir="/tmp"))
        self.folder.chmod(0o755)
        self.log_folder = self.folder / "log"
        self._shape = self._describe()
        settings = write_settings(self.folder, self._shape)
        foreign = ("SLURM_", "SBATCH_", "SRUN_", "SALLOC_")
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        self.environment["SLURM_CONF"] = str(settings)
        try:
            self._start_munge()
            self._start(CONTROLLER, ["slurmctld", "-D", "-c"])
            for node in self.nodes:
                self._start_node(node)
            self.wait_until(self.nodes, "idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends every process of the cluster and removes its folder."""
        if not self.isolated:
            with contextlib.suppress(subprocess.SubprocessError, RuntimeError, TimeoutError):
                self.clean_up()
        for host in self._hosts.values():
            host.kill()
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait(timeout=20)
        kill(processes_of(self._shape.name))
        shutil.rmtree(self.folder, ignore_errors=True)

    def clean_up(self) -> None:
        """Cancels all jobs, brings every node back, and waits until all are idle."""
        for node in self.nodes:
            if self.isolated and not self._hosts[node].is_alive():
                self._start_node(node)
        for node in set(self.run(["sinfo", "-h", "-N", "-t", "down,drain", "-o", "%N"]).stdout.split()):
            self.set_up(node)
        mine = f"--user={os.getuid()}"
        self.run(["scancel", "--full", "--signal=KILL", "--state=RUNNING", mine], check=False)  # whatever ignores TERM
        self.run(["scancel", mine], check=False)
        self.wait_until(self.nodes, "idle")

    def inside(self, command: Sequence[str], folder: Path | None = None) -> list[str]:
        """The command line that runs a command on the login node, in `folder` or here."""
        where = (folder or Path.cwd()).absolute()
        if self.isolated:
            return self._hosts[CONTROLLER].inside(command, where)
        return ["env", f"--chdir={where}", *command]

    def run_on(self, node: str, command: Sequence[str]) -> None:
        """Runs a command on a node, as somebody logged in there would: it sees that node's disks and network."""
        subprocess.run(self._hosts[node].inside(command, Path("/")), check=True, capture_output=True, timeout=20)

    def kill_node(self, node: str) -> None:
        """A power cut: all processes of the node and its network are gone; SLURM isn't told."""
        self._hosts[node].kill()

    def revive_node(self, node: str) -> None:
        """Boots a killed node; returns when SLURM has it back."""
        self._start_node(node)
        self.wait_until([node], "idle,alloc,mix")

    def pids_on(self, node: str, job_id: str, rank: int | None = None) -> list[int]:
        """Processes of a job on a node, oldest first; with `rank` those of that task of its steps."""
        wanted = {"SLURM_JOB_ID": job_id, "SLURMD_NODENAME": node}
        return [
            pid
            for pid, variables in processes_of(self._shape.name).items()
            if wanted.items() <= variables.items()
            and (rank is None or ("SLURM_STEP_ID" in variables and variables.get("SLURM_PROCID") == str(rank)))
        ]

    def _describe(self) -> Shape:
        cpus, gpus = self._sizes
        names = [CONTROLLER, *self.nodes]
        if self.isolated:
            addresses = {name: f"10.77.0.{10 + index}" for index, name in enumerate(names)}
            ports = {name: 6817 if name == CONTROLLER else 6818 for name in names}
            host_names = {name: name for name in names}
        else:
            addresses = {name: f"127.0.1.{1 + index}" for index, name in enumerate(names)}
            ports = {name: free_port() for name in names}
            host_names = {name: socket.gethostname().split(".")[0] for name in names}
        entries = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (self.folder / "hosts").write_text("\n".join(entries) + "\n")
        return Shape(cluster_name(self.folder), cpus, gpus, addresses, ports, host_names)

    def _start_munge(self) -> None:
        munge, log = self.folder / "munge", self.folder / "log"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        files = {"key-file": "key", "socket": "socket", "seed-file": "seed", "pid-file": "pid"}
        arguments = [f"--{option}={munge / file}" for option, file in files.items()]
        command = ["munged", "--foreground", "--force", *arguments, f"--log-file={log / 'munged.log'}"]
        self._daemons["munged"] = start_daemon(command, log / "munged.out", self.environment)
        self.wait_for((munge / "socket").exists, "munged", 20)

    def _start_node(self, node: str) -> None:
        self._start(node, ["slurmd", "-D", "-N", node])

    def _start(self, name: str, command: Sequence[str]) -> None:
        output = self.folder / "log" / f"{name}.out"
        if not self.isolated:
            self._daemons[name] = start_daemon(command, output, self.environment)
            return
        host = self._hosts[name] = Host(
            name,
            command,
            spaces=LOGIN if name == CONTROLLER else NODE,
            hosts_file=self.folder / "hosts",
            output=output,
            environment=self.environment,
        )
        address = f"{self._shape.addresses[name]}/24"
        if name == CONTROLLER:
            host.configure(
                "link set lo up", "link add br0 type bridge", f"addr add {address} dev br0", "link set br0 up"
            )
        else:
            cable = f"veth{host.pid}"  # a new name: a dead node's goes only after a while
            self._hosts[CONTROLLER].configure(
                f"link add {cable} type veth peer name eth0 netns {host.pid}", f"link set {cable} master br0 up"
            )
            host.configure("link set lo up", f"addr add {address} dev eth0", "link set eth0 up")
        host.go()
