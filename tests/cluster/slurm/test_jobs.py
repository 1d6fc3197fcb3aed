"""What SLURM jobs are refused, given, and told, seen on a real cluster; no model is trained here."""

import pytest

from tests.cluster.slurm.arrays import PrepareArrays
from tests.cluster.slurm.jobs import ON_CPUS, SCRIPTS, banyan, submit_pretrain, write_setup
from tests.corpus import write_texts
from tests.prepared import prepare, shard_files, write_jsonl

SMALL = ("data.path=absent", "train.batch_size=8", "run.dir=run")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["launch.nodes=9", "train.batch_size=9"], "SLURM refuses --nodes=9 --ntasks-per-node=1: "),
        (["launch.gpus_per_node=4"], "SLURM refuses --nodes=1 --ntasks-per-node=4 --gpus-per-node=4: "),
        (["launch.sbatch.mem=900G"], "--mem=900G: "),
        (["launch.partition=nowhere"], "invalid partition specified: nowhere"),
        (["launch.sbatch.exclusivee=true"], "unrecognized option '--exclusivee'"),
        (["launch.time=2:00:00"], "launch.time=2:00:00: above the limit of the partition (debug: 01:00:00)"),
        (["launch.time=1:00", "launch.grace_s=60"], "must be more than launch.grace_s=60 seconds"),
    ],
)
def test_an_impossible_request_is_refused_before_it_is_submitted(cluster, tmp_path, keys, message):
    before = len(cluster.jobs())
    done = banyan(cluster, tmp_path, *SMALL, *keys)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert len(cluster.jobs()) == before
    assert not (tmp_path / "run").exists()


def test_a_run_directory_that_cannot_be_written_is_refused_at_submission_and_in_the_job(cluster, tmp_path):
    (tmp_path / "file").touch()
    message = f"run.dir={tmp_path}/file/run: Not a directory; choose a folder that can be written.\n"
    done = banyan(cluster, tmp_path, *SMALL, f"run.dir={tmp_path}/file/run")
    assert (done.returncode, done.stderr) == (2, f"banyan: {message}")
    job = submit_pretrain(cluster, tmp_path, [*ON_CPUS], [*SMALL[:2], f"run.dir={tmp_path}/file/run"])
    assert job.wait_for_end() == "FAILED"
    assert job.state()["ExitCode"] == "2:0"
    assert job.log == f"banyan: {message}"


def test_bad_input_found_by_the_ranks_ends_the_job_with_one_line(cluster, tmp_path):
    job = submit_pretrain(cluster, tmp_path, ["--nodes=2", *ON_CPUS], [*SMALL[:2], f"run.dir={tmp_path}/run"])
    assert job.wait_for_end() == "FAILED"
    assert job.state()["ExitCode"] == "2:0", job.log
    assert job.log.count("banyan: ") == 1, job.log
    assert "absent" in job.log


def pretend(folder, body):
    """A BANYAN_RUN that takes the place of a rank; other commands run as they are."""
    path = folder / "pretend.sh"
    path.write_text(f'#!/usr/bin/env bash\nif [[ -z $RANK ]]; then exec "$@"; fi\n{body}\n')
    path.chmod(0o755)
    return f"--export=ALL,BANYAN_RUN={path},BANYAN_SETUP={write_setup(folder)}"


def test_each_rank_is_told_its_place_and_has_a_gpu_of_its_own(cluster, tmp_path):
    show = "echo $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE $MASTER_ADDR:$MASTER_PORT gpus $CUDA_VISIBLE_DEVICES"
    job = submit_pretrain(
        cluster,
        tmp_path,
        ["--nodes=2", "--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=2"],
        [*SMALL[:2], f"run.dir={tmp_path}/run"],
        export=pretend(tmp_path, show),
    )
    assert job.wait_for_end() == "COMPLETED", job.log
    lines = sorted(line for line in job.log.splitlines() if " gpus " in line)
    address = lines[0].split()[2]
    assert lines == [f"{rank}/4 {rank % 2}/2 {address} gpus 0,1" for rank in range(4)]
    host, port = address.split(":")
    assert host == cluster.run(["scontrol", "-o", "show", "node", "n1"]).stdout.split("NodeAddr=")[1].split()[0]
    assert 20000 <= int(port) < 32000


def test_gpus_without_ranks_are_refused(cluster, tmp_path):
    options = ["--gpus-per-node=2", "--ntasks-per-node=1", "--cpus-per-task=1"]
    job = submit_pretrain(cluster, tmp_path, options, [*SMALL[:2], f"run.dir={tmp_path}/run"])
    assert job.wait_for_end() == "FAILED"
    assert "use sbatch --ntasks-per-node=2." in job.log


def test_a_job_whose_ranks_always_crash_gives_up(cluster, tmp_path):
    job = submit_pretrain(
        cluster,
        tmp_path,
        ["--nodes=2", *ON_CPUS],
        [*SMALL[:2], f"run.dir={tmp_path}/run", "launch.max_restarts=2"],
        export=pretend(tmp_path, "exit 7"),
    )
    assert job.wait_for_end() == "FAILED"
    assert job.log.count("starting the ranks again") == 2, job.log
    assert "gave up: 3 starts in a row left no newer checkpoint" in job.log


def test_a_cancelled_job_checkpoints_and_does_not_come_back(cluster, tmp_path):
    body = 'trap "touch $RUN_DIR/stopped-$RANK; exit 85" TERM; echo begun; while :; do sleep 0.1; done'
    job = submit_pretrain(
        cluster,
        tmp_path,
        ["--nodes=2", *ON_CPUS],
        [*SMALL[:2], f"run.dir={tmp_path}/run"],
        export=pretend(tmp_path, body),
    )
    job.wait_for(lambda: job.log.count("begun") == 2, "both ranks")
    cluster.run(["scancel", job.number])
    assert job.wait_for_end() == "CANCELLED"
    cluster.wait_until(cluster.nodes, "idle")
    assert job.state()["JobState"] == "CANCELLED", job.log
    assert sorted(path.name for path in (tmp_path / "run").glob("stopped-*")) == ["stopped-0", "stopped-1"]


@pytest.mark.full
def test_ranks_that_take_longer_than_the_grace_are_queued_again_before_the_limit(cluster, tmp_path):
    job = submit_pretrain(
        cluster,
        tmp_path,
        ["--nodes=2", "--time=2", "--signal=B:USR1@60", *ON_CPUS],  # a minute is the least that SLURM counts
        [*SMALL[:2], f"run.dir={tmp_path}/run"],
        export=pretend(tmp_path, "sleep 600"),
    )
    job.let_go_on(restarts=1)
    assert "the ranks didn't checkpoint in time" in job.log
    job.wait_for(lambda: job.log.count("2 ranks on") == 2, "another start")


def test_a_requeued_prepare_goes_on_and_writes_the_same_shards(cluster, tmp_path):
    texts = write_jsonl(tmp_path / "texts.jsonl", write_texts(400))
    export = f"--export=ALL,BANYAN_SETUP={write_setup(tmp_path)}"
    keys = ["data.validation_fraction=0.0", "data.shard_bytes=20000", "data.block_tokens=1000", "data.name=custom"]
    job = cluster.submit(
        "--cpus-per-task=2",
        export,
        str(SCRIPTS / "prepare.sbatch"),
        *keys,
        f"data.input={texts}",
        f"data.output={tmp_path / 'out'}",
        "data.tokenizer.train.vocab_size=300",
        folder=tmp_path,
    )
    cluster.wait_for(lambda: (tmp_path / "out").exists(), "the first files", 60)
    cluster.run(["scancel", "--signal=USR1", "--batch", job])
    cluster.wait(job, until={"PENDING", "COMPLETED"})
    cluster.start_now(job)
    ended = cluster.wait(job)
    log = (tmp_path / f"banyan-prepare-{job}.log").read_text()
    assert (ended["JobState"], ended["Restarts"]) == ("COMPLETED", "1"), log
    assert shard_files(tmp_path / "out") == shard_files(prepare(texts, tmp_path / "calm", workers=2))


@pytest.mark.parametrize("victim", ["requeued", pytest.param("cancelled", marks=pytest.mark.full)])
def test_a_job_array_prepares_together_whatever_becomes_of_its_elements(cluster, tmp_path, victim):
    """A requeued element takes up what it had claimed; a cancelled one's is done by others, after a minute."""
    texts = [write_jsonl(tmp_path / f"{n}.jsonl", write_texts(1500, seed=n)) for n in range(4)]
    out = tmp_path / "out"
    keys = ["data.validation_fraction=0.0", "data.shard_bytes=20000", "data.block_tokens=1000", "data.name=custom"]
    keys += [f"data.input=[{','.join(map(str, texts))}]", f"data.output={out}", "data.tokenizer.train.vocab_size=300"]
    arrays = PrepareArrays(cluster, tmp_path, keys, cpus=3)
    array = arrays.submit("0-1")
    cluster.wait_for(lambda: len(list(out.glob("train/*.tar"))) > 3, "shards", 120)
    arrays.disturb(array, victim)
    assert shard_files(out) == shard_files(prepare(texts, tmp_path / "calm", workers=2)), arrays.log()
    assert {path.name for path in out.iterdir()} == {"train", "plan.json"}, arrays.log()
    arrays.wait_for(arrays.submit("7"), "7", 60)
    assert "up to date" in arrays.log()
