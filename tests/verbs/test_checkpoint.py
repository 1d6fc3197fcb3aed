"""`banyan checkpoint`: verify, list, show."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.checkpoint.complete import describe
from trainer.checkpoint.folders import folder_of
from trainer.errors import ConfigError, InputError
from trainer.verbs.checkpoint import main


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """A run of two tensor-parallel ranks with checkpoints of 2 and 4."""
    run_dir = tmp_path_factory.mktemp("saved") / "run"
    config = small_config(corpus, run_dir, train__steps=4, checkpoint__every=2, parallel__tensor=2)
    assert run_ranks(pretrain, config, 2) == [0, 0]
    return run_dir


@pytest.fixture
def run_dir(saved, tmp_path):
    """A copy to break."""
    return shutil.copytree(saved, tmp_path / "run")


def test_verify_says_ok_for_a_run_and_for_one_folder(saved, capsys):
    assert main(["verify", str(saved)]) == 0
    assert main(["verify", str(folder_of(saved, 4))]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(folder_of(saved, step)) for step in (2, 4, 4)]
    assert all(": OK, " in line for line in lines)


def test_verify_prints_a_line_per_damage_and_fails(run_dir, capsys):
    folder = folder_of(run_dir, 2)
    tensors = folder / "rank-00000.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.write_bytes(content)
    os.truncate(folder / "rank-00001.safetensors", 100)
    (folder / "index.safetensors").unlink()
    assert main(["verify", str(run_dir)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert lines[0] == f"{folder}: rank-00000.safetensors doesn't match its hash"
    assert "rank-00001.safetensors has 100 bytes of" in lines[1]
    assert lines[2] == f"{folder}: index.safetensors is missing"
    assert ": OK, " in lines[3]


def drop(rows):
    return {name: column[:-1] for name, column in rows.items()}


def double(rows):
    return {name: np.concatenate([column[:1], column]) for name, column in rows.items()}


def shorten(rows):
    return rows | {"size": rows["size"] - (np.arange(len(rows["size"])) == 0)}


def move(rows):
    return rows | {"offset": rows["offset"] + 1000}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "slices don't make it whole"),
        (double, "are twice"),
        (shorten, "are missing"),
        (move, "part 0: elements 0 to 1,000 belong to no piece"),
    ],
)
def test_verify_sees_what_hashes_don_t(run_dir, capsys, change, message):
    folder = folder_of(run_dir, 4)
    index = load_file(folder / "index.safetensors")
    names = {name: index.pop(name) for name in ("names", "file")}
    rewrite(folder, "index.safetensors", change(index) | names)
    assert main(["verify", str(folder)]) == 2
    assert message in capsys.readouterr().out


def test_verify_sees_a_tensor_that_is_shorter_than_its_pieces(run_dir, capsys):
    folder = folder_of(run_dir, 4)
    tensors = load_file(folder / "rank-00001.safetensors")
    rewrite(folder, "rank-00001.safetensors", {name: tensor[: len(tensor) // 2] for name, tensor in tensors.items()})
    assert main(["verify", str(folder)]) == 2
    assert "rank-00001.safetensors: rank-00001 has " in capsys.readouterr().out


def rewrite(folder, name, tensors):
    """A file of a checkpoint with other content, whose hash is right."""
    save_file({key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}, folder / name)
    complete = json.loads((folder / "COMPLETE").read_text())
    complete["files"][name] = describe(folder / name)
    (folder / "COMPLETE").write_text(json.dumps(complete))


def test_list_tells_whole_from_broken_and_names_attempts(run_dir, capsys):
    (folder_of(run_dir, 2) / "COMPLETE").unlink()
    (run_dir / "checkpoints" / "step-00000006.partial-0a").mkdir()
    assert main(["list", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "2"
    assert lines[1].endswith("not whole (COMPLETE is missing)")
    assert lines[2].endswith("2 ranks, ZeRO 0, tensor 2  whole")
    assert lines[3].startswith("step-00000006.partial-0a: under way, or cut short")


def test_show_tells_state_groups_and_memory(saved, capsys):
    assert main(["show", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder_of(saved, 4)}: ")
    assert "  step         4" in lines
    assert any("up_proj" in line and "2 x 96 x 48" in line and "fp32, exp_avg, exp_avg_sq" in line for line in lines)
    elements = json.loads((saved / "facts.json").read_text())["parameters"]
    alone = next(line for line in lines if line.startswith("    1 rank, ZeRO 0"))
    assert alone.split()[-2:] == [f"{elements * 12 / 1000:.3g}", "kB"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([], ConfigError, "verify, list, show"),
        (["see", "x"], ConfigError, "no such command"),
        (["show"], ConfigError, "usage"),
        (["show", "nowhere"], InputError, "no checkpoint there"),
    ],
)
def test_what_can_t_be_done_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        main(arguments)


def test_show_of_nothing_whole_is_refused(run_dir):
    for step in (2, 4):
        (folder_of(run_dir, step) / "COMPLETE").write_text("{")
    with pytest.raises(InputError, match="COMPLETE is damaged"):
        main(["show", str(run_dir)])
