"""Models named on the Hub: fetched where that is allowed, at a commit that stays the run's, checked, and never code."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from tests.corpus import make_dataset
from tests.hf_folder import make_folder
from tests.hub_server import hub_server
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.machine.hub_name import HubName, parse_hub_name
from trainer.ranks.extensions import choose_folder

pytest.importorskip("huggingface_hub")
ALLOW = "run.allow_download=true"
NAME = "hf://org/small"


@pytest.fixture
def hub(tmp_path):
    with hub_server() as hub:
        make_folder(tmp_path / "small")
        (tmp_path / "small" / "modeling_small.py").write_text("raise SystemExit('this is code')")
        (tmp_path / "small" / "pytorch_model.bin").write_bytes(b"a pickle")
        hub.commit = hub.publish("org/small", tmp_path / "small")
        yield hub


def banyan(hub, tmp_path, *arguments):
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment |= {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf_home")}
    environment["TORCH_EXTENSIONS_DIR"] = str(choose_folder())  # else DeepSpeed's operator is built once more
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)


def config_of(*arguments):
    """Prints the configuration alone: names are settled by then."""
    return ("pretrain", "data.path=data", "--cfg", "job", *arguments)


def cached(tmp_path):
    return sorted(str(path.relative_to(tmp_path / "cache/banyan/hub")) for path in (tmp_path / "cache").rglob("*.*"))


def test_a_name_is_pinned_to_a_commit_and_only_weights_and_json_are_fetched(hub, tmp_path):
    for key in ("model.init_from", "model.path"):
        done = banyan(hub, tmp_path, *config_of(f"{key}={NAME}@main", ALLOW))
        assert done.returncode == 0, done.stderr
        model = yaml.safe_load(done.stdout)["model"]
        assert model[key.partition(".")[2]] == f"{NAME}@{hub.commit}"
        assert model["name"] == "small"
    assert yaml.safe_load(done.stdout)["model"]["path"] == f"{NAME}@{hub.commit}"
    files = {path.rpartition("/")[2] for path in cached(tmp_path)}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors", "pins.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert not [path for path in hub.asked if ".py" in path or ".bin" in path]


def test_without_permission_it_is_refused_in_a_line_and_nothing_is_asked(hub, tmp_path):
    for arguments in (
        config_of(f"model.init_from={NAME}"),
        ("generate", f"path={NAME}", "prompt=a"),
        ("prepare", "data.input=none", f"data.tokenizer.path={NAME}"),
    ):
        done = banyan(hub, tmp_path, *arguments)
        assert done.returncode == 2
        assert f"={NAME}: isn't here, and nothing is downloaded unless run.allow_download=true" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not hub.asked


def test_what_was_fetched_is_what_the_name_means_from_then_on(hub, tmp_path):
    assert banyan(hub, tmp_path, *config_of(f"model.init_from={NAME}", ALLOW)).returncode == 0
    make_folder(tmp_path / "newer", intermediate_size=128)
    newer, asked = hub.publish("org/small", tmp_path / "newer"), len(hub.asked)
    again = banyan(hub, tmp_path, *config_of(f"model.init_from={NAME}"))
    assert f"{NAME}@{hub.commit}" in again.stdout
    assert len(hub.asked) == asked  # and no network was needed
    done = banyan(hub, tmp_path, *config_of(f"model.init_from={NAME}@{newer}", ALLOW))
    assert yaml.safe_load(done.stdout)["model"]["intermediate_size"] == 128


def test_a_run_keeps_its_commit_and_goes_on_without_the_hub(hub, tmp_path):
    make_dataset(tmp_path / "data", documents=30, tokenizer=load_tokenizer(tmp_path / "small"))
    run = ["pretrain", "data.path=data", f"model.init_from={NAME}", "data.sequence_length=32", "train.batch_size=4"]
    run += ["train.micro_batch_size=4", "run.dir=run", "track.wandb.mode=disabled", "evaluate.every=0"]
    run += ["evaluate.prompt=null", "train.precision=fp32", "schedule.warmup_steps=0"]
    done = banyan(hub, tmp_path, *run, "train.steps=2", ALLOW)
    assert done.returncode == 0, done.stderr
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["model"]["init_from"] == f"{NAME}@{hub.commit}"
    make_folder(tmp_path / "newer")
    hub.publish("org/small", tmp_path / "newer")
    os.rename(tmp_path / "cache", tmp_path / "gone")
    done = banyan(hub, tmp_path, *run, "train.steps=3", "run.allow_change=true")
    assert done.returncode == 0, done.stderr
    assert "3" in (tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").read_text()


def test_a_tokenizer_is_fetched_without_weights(hub, tmp_path):
    (tmp_path / "text.txt").write_text("the tree grows and the rain falls on every root\n" * 40)
    arguments = ["data.input=text.txt", "data.output=out", "data.validation_fraction=0", ALLOW]
    done = banyan(hub, tmp_path, "prepare", *arguments, f"data.tokenizer.path={NAME}")
    assert done.returncode == 0, done.stderr
    assert not [path for path in hub.asked if "safetensors" in path]
    assert (tmp_path / "out" / "train" / "tokenizer" / "tokenizer.json").read_text()
    name = json.loads((tmp_path / "out" / "train" / "tokenizer" / "tokenizer_config.json").read_text())["name"]
    assert name in ("small", "words")


def test_generate_and_export_take_names(hub, tmp_path):
    done = banyan(hub, tmp_path, "generate", f"path={NAME}", "prompt=the tree", "max_tokens=3", ALLOW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the tree")


def test_what_isnt_as_stated_is_not_kept(hub, tmp_path):
    hub.damaged = "model.safetensors"
    done = banyan(hub, tmp_path, *config_of(f"model.init_from={NAME}", ALLOW))
    assert done.returncode == 2
    assert "model.safetensors isn't what the Hub states (its hash differs)" in done.stderr
    hub.damaged = None
    assert banyan(hub, tmp_path, *config_of(f"model.init_from={NAME}", ALLOW)).returncode == 0


def test_what_the_hub_lacks_is_said_in_a_line(hub, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text("{}")
    (tmp_path / "code" / "pytorch_model.bin").write_bytes(b"a pickle")
    hub.publish("org/code", tmp_path / "code")
    for name, message in (
        ("hf://org/none", "there is no such model"),
        (f"{NAME}@v2", "there is no such branch, tag or commit"),
        ("hf://org/code", "holds no model.safetensors, and other weights aren't read"),
    ):
        done = banyan(hub, tmp_path, *config_of(f"model.init_from={name}", ALLOW))
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.splitlines()[-1].startswith("banyan: model.init_from=hf://"), done.stderr


def test_names():
    assert parse_hub_name("hf://a/b", "k") == HubName("a", "b", "main")
    assert parse_hub_name("hf://a/b.c@refs/pr/1", "k").revision == "refs/pr/1"
    for bad in ("hf://a", "hf://a/b/c", "hf://a/..", "hf://a/b@", "hf://a/b@../x", "hf://a/b@x/..", "hf://u:p@a/b"):
        with pytest.raises(ConfigError, match=r"write hf://OWNER/NAME@REVISION"):
            parse_hub_name(bad, "k")
