"""health.on_spike: bad steps are skipped or rewound, the same at every stage, and a resume after a kill is exact."""

import json
import os
import signal

import pytest
import torch

from tests.engine.bad_data import Planted
from tests.run_ranks import fail_ranks, read_metrics, run_ranks, small_config, start_ranks
from tests.states import assert_equal_states, read_state
from trainer.track.spike_record import read_spikes

NAN = float("nan")
BATCH = 8


def positions(step):
    """The first position of a step, on rank 0, and the last, on rank 1 of two."""
    return (step - 1) * BATCH, step * BATCH - 1


def configure(corpus, run_dir, **changes):
    return small_config(
        corpus,
        run_dir,
        **{"health__on_spike": "skip", "health__window": 8, "train__steps": 14, "checkpoint__every": 4, **changes},
    )


def history(run_dir):
    return json.loads((run_dir / "history.json").read_text())


CASES = [(0, "adamw"), (2, "adamw"), (3, "adamw")]
MORE = [(stage, name) for stage in range(4) for name in ("adamw", "sgd", "lion", "muon")]


def check_skips(corpus, folder, *, stage, optimizer, ranks=2, **changes):
    """A NaN on one rank and a spike on the other: both steps change nothing, on a run that goes on to its end."""
    bad = {positions(6)[1]: NAN, positions(10)[0]: 1e3}
    config = configure(
        corpus,
        folder,
        parallel__zero_stage=stage,
        optimizer__name=optimizer,
        checkpoint__every=1,
        checkpoint__keep=20,
        **changes,
    )
    assert run_ranks(Planted(bad), config, ranks) == [0] * ranks
    assert history(folder)["skipped"] == [6, 10]
    for step in range(2, 15):
        before, after = read_state(folder, step - 1), read_state(folder, step)
        same = [torch.equal(before[key], after[key]) for key in before]
        assert all(same) if step in (6, 10) else not any(same), step
    rows = {row["step"]: row for row in read_metrics(folder)}
    assert [step for step, row in rows.items() if row["health/spike"]] == [6, 10]


@pytest.mark.parametrize(("stage", "optimizer"), CASES)
def test_bad_steps_are_skipped_on_every_rank_and_listed(corpus, tmp_path, stage, optimizer):
    check_skips(corpus, tmp_path, stage=stage, optimizer=optimizer)


@pytest.mark.full
@pytest.mark.parametrize(("stage", "optimizer"), [case for case in MORE if case not in CASES])
def test_every_optimiser_skips_at_every_stage(corpus, tmp_path, stage, optimizer):
    check_skips(corpus, tmp_path, stage=stage, optimizer=optimizer)


@pytest.mark.full
@pytest.mark.parametrize("stage", range(4))
def test_bf16_skips_at_every_stage(corpus, tmp_path, stage):
    check_skips(corpus, tmp_path, stage=stage, optimizer="adamw", train__precision="bf16")


def check_resume(corpus, tmp_path, stage, **changes):
    """A run that is killed and goes on has the bits of one that wasn't, skips or rewinds and all."""
    bad = {positions(7)[1]: NAN, positions(11)[0]: 1e3}
    for name in ("calm", "killed"):
        config = configure(corpus, tmp_path / name, parallel__zero_stage=stage, **changes)
        if name == "killed":
            ranks = start_ranks(Planted(bad), config, 2)
            ranks.kill_once_saved(tmp_path / name)
        assert run_ranks(Planted(bad), config, 2) == [0, 0]
    assert_equal_states(tmp_path / "calm", tmp_path / "killed")
    assert history(tmp_path / "calm") == history(tmp_path / "killed")
    keys = ("step", "train/grad_norm", "health/spike")
    calm, killed = (
        [[row[key] for key in keys] for row in read_metrics(tmp_path / name)] for name in ("calm", "killed")
    )
    assert calm == killed


@pytest.mark.parametrize("stage", [2])
def test_a_killed_run_that_skips_goes_on_to_the_bit(corpus, tmp_path, stage):
    check_resume(corpus, tmp_path, stage)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_killed_runs_that_skip_go_on_to_the_bit_at_other_stages(corpus, tmp_path, stage):
    check_resume(corpus, tmp_path, stage)


def check_rewind(corpus, folder, stage):
    bad = {positions(7)[1]: NAN}
    config = configure(corpus, folder, parallel__zero_stage=stage, health__on_spike="rewind")
    assert run_ranks(Planted(bad), config, 2) == [0, 0]
    found = history(folder)
    assert found["rewinds"] == [{"from_step": 7, "to_step": 4, "position": 56}]
    assert found["stretches"][1] == {"step": 4, "position": 56, "batch_size": 8}
    rows = read_metrics(folder)
    assert [row["step"] for row in rows] == list(range(1, 15))
    return config


@pytest.mark.parametrize("stage", [2])
def test_a_rewind_leaves_out_the_stretch_and_the_history_knows(corpus, tmp_path, stage, capsys):
    check_rewind(corpus, tmp_path, stage)
    from trainer.run.provenance import print_step

    assert print_step(tmp_path, 5) == 0
    printed = capsys.readouterr().out
    assert "step 5: positions 56 to 63" in printed
    assert "step 7 was bad and the run was rewound to step 4" in printed


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_rewinds_at_other_stages(corpus, tmp_path, stage):
    check_rewind(corpus, tmp_path, stage)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 3])
def test_a_killed_run_that_rewinds_goes_on_to_the_bit(corpus, tmp_path, stage):
    check_resume(corpus, tmp_path, stage, health__on_spike="rewind", health__max_rewinds=4)


class KilledInRewind:
    """`Planted`, whose rank 0 kills itself at a moment of its first rewind: before or after history.json is written,
    or once it has gone back."""

    def __init__(self, factors, moment):
        self.work, self.moment = Planted(factors), moment

    def __call__(self, config):
        from trainer.run import bad_steps

        def die():
            if os.environ["RANK"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)

        write, tell = bad_steps.write_json, bad_steps.BadSteps._tell

        def write_and_die(path, record):
            if self.moment == "before":
                die()
            write(path, record)
            if self.moment == "after":
                die()

        def tell_and_die(minding, line):
            tell(minding, line)
            die()

        bad_steps.write_json, bad_steps.BadSteps._tell = write_and_die, tell_and_die
        return self.work(config)


def check_kills_in_rewind(corpus, tmp_path, stage, ranks):
    """A run that is killed while it is rewound goes on as one that wasn't; the rewind is there once."""
    bad = {positions(7)[0]: NAN, positions(11)[0]: 1e3}
    spikes = {}
    for name in ("calm", "before", "after", "gone_back"):
        config = configure(corpus, tmp_path / name, parallel__zero_stage=stage, health__on_spike="rewind")
        if name != "calm":
            killed = start_ranks(KilledInRewind(bad, name), config, ranks)
            killed.processes[0].join(120)
            killed.kill()
            assert killed.processes[0].exitcode == -signal.SIGKILL
        assert run_ranks(Planted(bad), config, ranks) == [0] * ranks
        assert_equal_states(tmp_path / "calm", tmp_path / name)
        assert history(tmp_path / name) == history(tmp_path / "calm")
        assert [row["step"] for row in read_metrics(tmp_path / name)] == list(range(1, 15))
        spikes[name] = [(spike.step, spike.outcome, spike.documents) for spike in read_spikes(tmp_path / name)]
    assert [each[:2] for each in spikes["calm"]] == [(7, "rewound"), (8, "rewound")]
    assert all(found == spikes["calm"] for found in spikes.values())


def test_a_run_killed_while_it_is_rewound_goes_on_to_the_bit(corpus, tmp_path):
    check_kills_in_rewind(corpus, tmp_path, stage=0, ranks=1)


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_ranks_killed_while_a_run_is_rewound(corpus, tmp_path, stage):
    check_kills_in_rewind(corpus, tmp_path, stage=stage, ranks=2)


def test_a_run_that_would_rewind_too_often_ends(corpus, tmp_path):
    bad = {position: NAN for step in (7, 9) for position in positions(step)}
    config = configure(corpus, tmp_path, health__on_spike="rewind", health__max_rewinds=1)
    codes, errors = fail_ranks(Planted(bad), config, 2)
    assert codes == [3, 3]
    assert "after 1 rewinds; raise health.max_rewinds" in errors[0]
