"""Models named on the Hub: fetched where that is allowed, at a commit that stays the run's, checked, and never code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from launch.compose import compose
from tests.corpus import make_dataset
from tests.hf_folder import make_folder
from tests.hub_server import hub_server
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.machine.hub_name import HubName, parse_hub_name
from trainer.ranks.extensions import choose_folder
from trainer.verbs import generate

pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).parents[2]
ALLOW = "run.allow_download=true"
NAME = "hf://org/small"
EXTENSIONS = str(choose_folder())  # of the usual cache: else DeepSpeed's operator is built once more


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    with hub_server() as hub:
        make_folder(tmp_path / "small")
        (tmp_path / "small" / "modeling_small.py").write_text("raise SystemExit('this is code')")
        (tmp_path / "small" / "pytorch_model.bin").write_bytes(b"a pickle")
        hub.commit = hub.publish("org/small", tmp_path / "small")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf_home"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.chdir(tmp_path)
        yield hub


def model_of(*arguments):
    return compose("pretrain", ["data.path=data", *arguments]).model


def banyan(tmp_path, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["TORCH_EXTENSIONS_DIR"] = EXTENSIONS
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "launch", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)


def test_a_name_is_pinned_to_a_commit_and_only_weights_and_json_are_fetched(hub, tmp_path):
    model = model_of(f"model.init_from={NAME}@main", ALLOW)
    assert (model.init_from, model.name, model.hidden_size) == (f"{NAME}@{hub.commit}", "small", 64)
    assert model_of(f"model.path={NAME}@main", ALLOW).path == f"{NAME}@{hub.commit}"
    files = {path.name for path in (tmp_path / "cache").rglob("*.*") if path.is_file()}
    assert files == {
        *("config.json", "generation_config.json", "model.safetensors", "pins.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    }
    assert not [path for path in hub.asked if ".py" in path or ".bin" in path]


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("pretrain", ["data.path=data", f"model.init_from={NAME}"]),
        ("finetune", ["data.path=data", f"model.path={NAME}"]),
        ("generate", [f"path={NAME}", "prompt=a"]),
        ("chat", [f"path={NAME}"]),
        ("export", [f"path={NAME}", "format=gguf"]),
        ("prepare", ["data.input=none", f"data.tokenizer.path={NAME}"]),
    ],
)
def test_without_permission_it_is_refused_and_nothing_is_asked(hub, verb, arguments):
    with pytest.raises(ConfigError, match=r"=hf://org/small: isn't here, .* unless run.allow_download=true says so"):
        compose(verb, arguments)
    assert not hub.asked


def test_what_was_fetched_is_what_the_name_means_from_then_on(hub, tmp_path):
    model_of(f"model.init_from={NAME}", ALLOW)
    make_folder(tmp_path / "newer", intermediate_size=128)
    newer, asked = hub.publish("org/small", tmp_path / "newer"), len(hub.asked)
    assert model_of(f"model.init_from={NAME}").init_from == f"{NAME}@{hub.commit}"
    assert len(hub.asked) == asked  # and no network was needed
    assert model_of(f"model.init_from={NAME}@{newer}", ALLOW).intermediate_size == 128


@pytest.mark.full
def test_a_run_keeps_its_commit_and_goes_on_without_the_hub(hub, tmp_path):
    make_dataset(tmp_path / "data", documents=30, tokenizer=load_tokenizer(tmp_path / "small"))
    run = ["pretrain", "data.path=data", f"model.init_from={NAME}", "data.sequence_length=32", "train.batch_size=4"]
    run += ["train.micro_batch_size=4", "run.dir=run", "track.wandb.mode=disabled", "evaluate.every=0"]
    run += ["evaluate.prompt=null", "train.precision=fp32", "schedule.warmup_steps=0"]
    done = banyan(tmp_path, *run, "train.steps=2", ALLOW)
    assert done.returncode == 0, done.stderr
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["model"]["init_from"] == f"{NAME}@{hub.commit}"
    make_folder(tmp_path / "newer")
    hub.publish("org/small", tmp_path / "newer")
    os.rename(tmp_path / "cache", tmp_path / "gone")
    done = banyan(tmp_path, *run, "train.steps=3", "run.allow_change=true")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step-00000003" / "COMPLETE").exists()


def test_a_run_that_is_there_says_which_commit_its_name_means(hub, tmp_path):
    older = "0" * 40
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"model: {{init_from: '{NAME}@{older}', hidden_size: 64}}\n")
    assert model_of(f"model.init_from={NAME}", "run.dir=run").init_from == f"{NAME}@{older}"
    assert not hub.asked


def test_a_tokenizer_is_fetched_without_weights(hub):
    config = compose("prepare", ["data.input=none", f"data.tokenizer.path={NAME}", ALLOW])
    assert config.data.tokenizer.path == f"{NAME}@{hub.commit}"
    assert not [path for path in hub.asked if "safetensors" in path]
    assert load_tokenizer(config.data.tokenizer.path).vocab_size == 300
    model_of(f"model.init_from={NAME}", ALLOW)  # which has to fetch them


def test_generate_takes_a_name(hub, capsys):
    assert generate.main(compose("generate", [f"path={NAME}", "prompt=the tree", "max_tokens=3", ALLOW])) == 0
    assert capsys.readouterr().out.startswith("the tree")


def test_what_isnt_as_stated_is_not_kept(hub):
    hub.damaged = "model.safetensors"
    with pytest.raises(InputError, match=r"model.safetensors isn't what the Hub states \(its hash differs\)"):
        model_of(f"model.init_from={NAME}", ALLOW)
    hub.damaged = None
    model_of(f"model.init_from={NAME}", ALLOW)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf://org/none", "there is no such model"),
        (f"{NAME}@v2", "there is no such branch, tag or commit"),
        ("hf://org/code", "holds no model.safetensors, and other weights aren't read"),
    ],
)
def test_what_the_hub_lacks_is_said_in_a_line(hub, tmp_path, name, message):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "config.json").write_text("{}")
    (tmp_path / "code" / "pytorch_model.bin").write_bytes(b"a pickle")
    hub.publish("org/code", tmp_path / "code")
    with pytest.raises(InputError, match=message) as refused:
        model_of(f"model.init_from={name}", ALLOW)
    assert str(refused.value).startswith(f"model.init_from={name}")
    assert "\n" not in str(refused.value)


def test_names():
    assert parse_hub_name("hf://a/b", "k") == HubName("a", "b", "main")
    assert parse_hub_name("hf://a/b.c@refs/pr/1", "k").revision == "refs/pr/1"
    for bad in ("hf://a", "hf://a/b/c", "hf://a/..", "hf://a/b@", "hf://a/b@../x", "hf://a/b@x/..", "hf://u:p@a/b"):
        with pytest.raises(ConfigError, match=r"write hf://OWNER/NAME@REVISION"):
            parse_hub_name(bad, "k")
