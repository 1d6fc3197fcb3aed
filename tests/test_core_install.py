"""What `make train` installs is enough: every verb starts without the packages of the extras, and training runs."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERBS = [f"trainer.verbs.{file.stem}" for file in sorted((ROOT / "trainer" / "verbs").glob("[a-z]*.py"))]
HIDE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def canonical(requirement):
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>~! ;]", requirement)[0]).lower()


def hidden():
    """Modules of packages that only extras name; what core packages bring along stays."""
    core = {canonical(each) for each in PROJECT["dependencies"]}
    extras = {canonical(each) for group in PROJECT["optional-dependencies"].values() for each in group}
    only = extras - core - {canonical(PROJECT["name"])}
    found = packages_distributions()
    return sorted(name for name, owners in found.items() if {canonical(owner) for owner in owners} <= only)


def run(code, *arguments, cwd):
    prelude = f"HIDDEN = {set(hidden())!r}\n{HIDE}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", prelude + code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_every_verb_is_imported_without_an_extra(tmp_path):
    assert {"numba", "transformers", "peft", "ray", "fastapi", "lm_eval"} <= set(hidden())
    code = """
import importlib
wrong = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        wrong.append(f"{name}: {error}")
print("\\n".join(wrong))
"""
    done = run(code, *VERBS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_a_run_is_trained_judged_and_exported_without_an_extra(corpus, tmp_path):
    verb = "from launch.cli import main; sys.exit(main())"
    keys = ("model=tiny", "model.hidden_size=16", "model.intermediate_size=32", "model.num_hidden_layers=1")
    keys += ("data.sequence_length=32", "train.steps=2", "train.batch_size=2", "run.dir=run", "evaluate.every=1")
    done = run(verb, "pretrain", f"data.path={corpus}", *keys, "track.wandb.mode=disabled", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("figures by language are left out") <= 1
    for arguments in (("evaluate",), ("export", "format=hf"), ("generate", "prompt=the", "max_tokens=2")):
        done = run(verb, arguments[0], "run.dir=run", *arguments[1:], cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
    assert Path(tmp_path / "run" / "export" / "step-00000002" / "model.safetensors").is_file()
    done = run(verb, "serve", "run.dir=run", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "pip install 'banyan-train[serve]'" in done.stderr
