"""An S3 bucket in the cluster's network: a daemon of moto on the login node, at an address of its own that can be cut.

store = BucketDaemon(cluster, folder)       its log goes to `folder`
url = store.fill(folder)                    "s3://data"
store.put(file, "data/train/shard-000000.tar")
store.cut_off(); store.connect()            packets to its address go nowhere, and come back as if nothing was
store.stop()
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.cluster.slurm.cluster import SlurmCluster
from tests.cluster.slurm.host import start_daemon

ADDRESS, PORT, BUCKET = "10.77.0.9", 5555, "data"
_FILL = """
import sys, s3fs
files = s3fs.S3FileSystem()
files.mkdir(sys.argv[2])
files.put(sys.argv[1] + "/", sys.argv[2] + "/", recursive=True)
"""
_PUT = "import sys, s3fs; s3fs.S3FileSystem().put_file(*sys.argv[1:])"


class BucketDaemon:
    """See the head of this file."""

    def __init__(self, cluster: SlurmCluster, folder: Path) -> None:
        self._cluster = cluster
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://{ADDRESS}:{PORT}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.connect()
        command = [sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(PORT)]
        self._daemon = start_daemon(cluster.inside(command), folder / "moto.log", dict(os.environ))
        listening = ["bash", "-c", f"</dev/tcp/{ADDRESS}/{PORT}"]
        cluster.wait_for(lambda: cluster.run(listening, check=False).returncode == 0, "moto", 60)

    def fill(self, folder: Path) -> str:
        """Puts the files of a folder into a new bucket; its URL."""
        self._run(_FILL, str(folder), BUCKET)
        return f"s3://{BUCKET}"

    def put(self, file: Path, place: str) -> None:
        """Puts a file in the place of another."""
        self._run(_PUT, str(file), place)

    def cut_off(self) -> None:
        """Takes its address away: connections hang, and new ones find nobody."""
        self._cluster.run(["ip", "addr", "del", f"{ADDRESS}/24", "dev", "br0"])

    def connect(self) -> None:
        """Gives it its address."""
        self._cluster.run(["ip", "addr", "add", f"{ADDRESS}/24", "dev", "br0"])

    def stop(self) -> None:
        """Ends the daemon; its address goes."""
        self._daemon.kill()
        self._daemon.wait(timeout=20)
        self._cluster.run(["ip", "addr", "del", f"{ADDRESS}/24", "dev", "br0"], check=False)

    def _run(self, program: str, *arguments: str) -> None:
        self._cluster.run([sys.executable, "-c", program, *arguments], environment=self.variables, timeout_s=120)
