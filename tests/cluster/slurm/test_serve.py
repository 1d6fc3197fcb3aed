"""`sbatch slurm/serve.sbatch` on a real SLURM: its log tells where it is, a key opens it, scancel lets it drain."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.slurm.jobs import ROOT, SCRIPTS, Job, write_setup
from tests.hf_folder import make_folder

KEY = "a-key-of-the-cluster"
# What a user runs on the login node: a question, then a long stream, of which the first piece is told at once.
CLIENT = """
import json, sys, openai
client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2], max_retries=0, timeout=60)
try:
    openai.OpenAI(base_url=sys.argv[1], api_key="wrong-key", max_retries=0).models.list()
except openai.AuthenticationError as error:
    print(json.dumps(error.code), flush=True)
given = {"model": "model", "prompt": "the tree", "temperature": 0}
print(json.dumps(client.completions.create(**given, max_tokens=4).choices[0].text), flush=True)
ends, begun = [], False
for chunk in client.completions.create(**given, max_tokens=100, n=8, stream=True):
    begun = begun or print('"begun"', flush=True) is None
    ends += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
print(json.dumps(ends), flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("served")
    make_folder(path / "model", max_position_embeddings=512)
    (path / "keys.txt").write_text(f"{KEY}\n")
    (path / "keys.txt").chmod(0o600)
    return path


def submit(cluster, folder, *keys):
    export = f"--export=ALL,BANYAN_SETUP={write_setup(folder)},XDG_RUNTIME_DIR=/run/user/of-the-login-node"
    options = ["--gpus-per-node=0", "--cpus-per-task=1", export]
    number = cluster.submit(*options, str(SCRIPTS / "serve.sbatch"), *keys, "serve.engine=torch", folder=folder)
    return Job(cluster, number, folder, folder / f"banyan-serve-{number}.log")


def wide(folder):
    return [f"path={folder / 'model'}", f"serve.keys={folder / 'keys.txt'}", "serve.host=0.0.0.0"]


def address_of(job):
    """As docs/SERVING.md says: what the log says."""
    job.wait_for(lambda: "serving model at" in job.log, "a server")
    return re.search(r"http://\S+/v1", job.log)[0]


def test_a_job_is_found_answers_with_a_key_and_drains_when_it_is_cancelled(cluster, folder, tmp_path):
    job = submit(cluster, folder, *wide(folder))
    wrong = submit(cluster, folder, f"path={folder / 'nowhere'}")
    asked = tmp_path / "asked"
    command = [sys.executable, "-c", CLIENT, address_of(job), KEY]
    with asked.open("wb") as file:
        client = subprocess.Popen(cluster.inside(command), env=cluster.environment, stdout=file, stderr=file)
    try:
        job.wait_for(lambda: "begun" in asked.read_text() or client.poll() is not None, "a stream")
        cluster.run(["scancel", job.number])
        assert client.wait(60) == 0, asked.read_text()
    finally:
        client.kill()
        client.wait()
    refused, text, _, ends = map(json.loads, asked.read_text().splitlines())
    assert (refused, ends) == ("invalid_api_key", ["length"] * 8)
    assert text
    job.wait_for_end()
    job.cluster.wait_for(lambda: "ended with" in job.log, "the last line", 20)
    assert "ended with 0" in job.log, job.log
    assert job.log.count("draining") == 2, job.log  # the script's word and the server's
    assert "told again" not in job.log
    assert wrong.wait_for_end() == "FAILED"
    assert wrong.state()["ExitCode"] == "2:0"
    said = [line for line in wrong.log.splitlines() if not re.search(r"job \d+: ", line)]
    assert said == [
        f"banyan: path={folder / 'nowhere'}: there is no such folder, and nothing is downloaded; fetch the model first."
    ]


@pytest.mark.full
def test_near_the_time_limit_it_drains_and_is_queued_again(cluster, folder):
    job = submit(cluster, folder, *wide(folder))
    first = address_of(job)
    job.near_time_limit()
    job.let_go_on(restarts=1)
    assert "the time limit is near: draining" in job.log
    job.wait_for(lambda: job.log.count("serving model at") == 2, "the server again")
    assert re.findall(r"http://\S+/v1", job.log)[-1] == first  # which its clients go on to use
    cluster.run(["scancel", job.number])
    job.wait_for_end()


@pytest.mark.full
def test_another_model_is_put_in_its_place_by_a_step_of_the_job(cluster, folder):
    """On the job's node: the socket by which a server is told to change is there."""
    job = submit(cluster, folder, *wide(folder))
    port = address_of(job).rpartition(":")[2].removesuffix("/v1")
    change = [sys.executable, "-P", "-m", "launch", "serve", "reload", f"path={folder / 'model'}", f"serve.port={port}"]
    done = cluster.run(
        ["srun", "--overlap", f"--jobid={job.number}", *change],
        environment={"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": "/run/user/of-the-login-node"},
        timeout_s=120,
    )
    assert done.stdout.startswith("model: engine torch"), done.stderr
    assert Path(job.log_file).read_text().count("model: engine torch") == 2
    cluster.run(["scancel", job.number])
    job.wait_for_end()
