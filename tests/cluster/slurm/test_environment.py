"""BANYAN_ENV: an environment that is unpacked once on each node."""

import sys
import tarfile

from tests.cluster.slurm.jobs import ON_CPUS, submit_pretrain
from tests.cluster.slurm.test_jobs import SMALL, pretend


def pack(folder):
    """An archive whose Python is this one."""
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    path = folder / "env.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(program, "bin/python")
    return path


def submit(cluster, folder, environment, unpacked):
    export = pretend(folder, 'echo "rank $RANK has $(command -v python)"')
    options = f"{export},BANYAN_ENV={environment},BANYAN_ENV_DIR={unpacked}"
    overrides = [*SMALL[:2], f"run.dir={folder}/run"]
    job = submit_pretrain(cluster, folder, ["--nodes=2", *ON_CPUS], overrides, export=options)
    job.wait_for_end()
    return job


def test_ranks_run_what_was_unpacked_and_nothing_stays_half(cluster, tmp_path):
    unpacked = tmp_path / "local"
    unpacked.mkdir()
    job = submit(cluster, tmp_path, pack(tmp_path), unpacked)
    assert job.state()["JobState"] == "COMPLETED", job.log
    (folder,) = unpacked.iterdir()
    assert {f"rank {rank} has {folder}/bin/python" for rank in (0, 1)} <= set(job.log.splitlines())


def test_an_archive_that_is_none_ends_the_job_with_one_line(cluster, tmp_path):
    broken = tmp_path / "env.tar"
    broken.write_bytes(b"no archive" * 100)
    job = submit(cluster, tmp_path, broken, tmp_path)
    assert job.state()["ExitCode"] == "2:0", job.log
    assert f"BANYAN_ENV={broken} can't be unpacked to " in job.log
