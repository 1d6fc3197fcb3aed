"""`launch=slurm` without a SLURM: the script that is rendered, and what is refused before one is asked."""

import os
import re
import subprocess
import sys

import pytest

from launch.slurm import batch_script
from launch.slurm.launcher import check_node_counts
from launch.slurm.site import seconds_of
from trainer.config import Launch
from trainer.errors import ConfigError

SMALL = ("data.path=data", "train.batch_size=8", "run.name=small")


def banyan(*arguments, **variables):
    """Runs `banyan pretrain launch=slurm ARGUMENTS` on a machine without SLURM."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "BANYAN_"))}
    return subprocess.run(
        [sys.executable, "-m", "launch", "pretrain", "launch=slurm", *SMALL, *arguments],
        env=clean | {"PATH": "/nowhere"} | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def error_line(*arguments, **variables):
    done = banyan(*arguments, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def directives(script):
    return re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE)


def rendered(**keys):
    launch = Launch(name="slurm", **keys)
    options = batch_script.options_of(launch, batch_script.SCRIPTS.parent / "runs" / "small")
    return batch_script.render(options, {}, ["launch=slurm"])


def test_a_dry_run_prints_a_script_of_its_own_and_leaves_nothing(tmp_path):
    keys = ("launch.nodes=2", "launch.gpus_per_node=4", "launch.time=1-00:00:00", "evaluate.prompt=it's $HOME")
    done = banyan(*keys, "launch.dry_run=true", f"run.dir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, timeout=20, check=False).returncode == 0
    assert list(tmp_path.iterdir()) == []
    options = directives(done.stdout)
    assert {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=1-00:00:00"} <= set(options)
    assert f"--output={tmp_path}/run/logs/slurm-%j.log" in options
    setting = next(line for line in done.stdout.splitlines() if line.startswith("set -- "))
    words = subprocess.run(
        ["bash", "-c", setting + '\nprintf "%s\\n" "$@"'], capture_output=True, text=True, timeout=20, check=True
    ).stdout.splitlines()
    assert words == ["launch=slurm", *SMALL, *keys, f"run.dir={tmp_path / 'run'}"]


def test_the_rendered_script_differs_from_the_shipped_one_in_its_settings_only():
    shipped = (batch_script.SCRIPTS / "pretrain.sbatch").read_text().splitlines()
    ours = rendered(nodes=2).splitlines()
    changed = [line for line in shipped if line not in ours]
    assert all(line.startswith("#SBATCH") or line == "# (overrides)" for line in changed)
    assert shipped[-40:] == ours[-40:]


def test_every_key_of_the_launcher_reaches_sbatch():
    options = directives(
        rendered(
            nodes=4,
            elastic=True,
            min_nodes=2,
            tasks_per_node=3,
            cpus_per_task=5,
            partition="long",
            account="me",
            grace_s=300,
            sbatch={"mail_user": "a@b.c", "exclusive": True, "comment": "two words", "requeue": False},
        )
    )
    for option in (
        "--nodes=2-4",
        "--mincpus=15",
        "--cpus-per-task=5",
        "--partition=long",
        "--account=me",
        "--signal=B:USR1@300",
        "--mail-user=a@b.c",
        "--exclusive",
        '--comment="two words"',
    ):
        assert option in options
    assert "--requeue" not in options
    assert not any("gpus" in option for option in options)


HOSTILE = ["a\n#SBATCH --uid=0", "a\ntouch PWN\n#", 'a" --uid=0 "', "a\\", "a\rb", "a\u2028b", "a\x1bb"]


@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
@pytest.mark.parametrize("key", ["partition", "account", "time", "comment"])
def test_what_would_leave_its_line_of_the_script_is_refused(key, value):
    keys = {"sbatch": {"comment": value}} if key == "comment" else {key: value}
    with pytest.raises(ConfigError, match=f"--{key}=.*can't hold quotes, backslashes or control characters"):
        rendered(**keys)
    with pytest.raises(ConfigError, match="no option of sbatch"):
        rendered(sbatch={value: "x"})


@pytest.mark.parametrize("name", ["it's 50%j", "a b", "$(touch PWN)", "`x`", "a;b", "运行"])
def test_a_run_directory_of_any_name_stays_in_its_line(name, tmp_path):
    launch = Launch(name="slurm")
    run_dir = tmp_path / name
    script = batch_script.render(batch_script.options_of(launch, run_dir), {}, [f"run.dir={run_dir}"])
    output = next(line for line in directives(script) if line.startswith("--output"))
    assert output.replace('"', "") == f"--output={str(run_dir).replace('%', '%%')}/logs/slurm-%j.log"
    job = next(line for line in directives(script) if line.startswith("--job-name"))
    assert re.fullmatch(r"--job-name=banyan-[\w.-]+", job)
    assert len(directives(script)) == len(directives(rendered()))


def test_names_leave_no_line_and_no_folder_before_a_script_is_written():
    for name in ("x\ntouch PWN\n#", "../../x", 'a"b', "%j"):
        assert error_line(f"run.name={name}", "launch.dry_run=true").startswith("banyan: run.name=")


def test_a_setup_file_is_sourced_and_must_exist(tmp_path):
    (tmp_path / "mine.sh").touch()
    done = banyan("launch.dry_run=true", f"launch.setup={tmp_path / 'mine.sh'}")
    assert f"export BANYAN_SETUP={tmp_path / 'mine.sh'}\n" in done.stdout
    assert "launch.setup=absent.sh: there is no such file" in error_line(
        "launch.setup=absent.sh", "launch.dry_run=true"
    )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["launch.nodes=3"], "3 ranks"),
        (["launch.gpus_per_node=4", "launch.tasks_per_node=2"], "leave launch.tasks_per_node out"),
        (["launch.min_nodes=2", "launch.nodes=4"], "needs launch.elastic=true"),
        (["launch.processes=2"], "choose launch=local"),
        (["launch.nodes=0"], "launch.nodes=0: must be at least 1"),
        ([], "there is no sbatch here"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(keys, message):
    assert message in error_line(*keys)


def test_each_size_of_an_elastic_job_is_checked():
    def check(ranks):
        if ranks % 3 == 0:
            raise ConfigError(f"no {ranks} ranks.")

    check_node_counts(Launch(name="slurm", nodes=2, elastic=True), check)
    with pytest.raises(ConfigError, match=r"1 to 4 nodes, but 3 of them can't train; with 3: no 3 ranks\."):
        check_node_counts(Launch(name="slurm", nodes=4, elastic=True), check)
    with pytest.raises(ConfigError, match=r"^no 3 ranks\.$"):
        check_node_counts(Launch(name="slurm", nodes=3, min_nodes=3, elastic=True), check)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:05", 7205),
        ("1-0", 86400),
        ("1-2:30", 95400),
        ("1-2:30:01", 95401),
        ("soon", None),
    ],
)
def test_times_as_sbatch_reads_them(text, seconds):
    assert seconds_of(text) == seconds
