"""Recipes as they are typed: the smallest is run whole, the others in long runs; the model beats its baselines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAST = {  # the first figure of the table, by the model
    "sentiment": 0.9,
    "entities": 0.8,
    "questions": 0.4,
    "translation": 60.0,
    "summaries": 0.6,
    "dialogue": 0.5,
    "retrieval": 0.0,
    "classification": 0.3,
    "spam": 0.7,
    "long_context": 0.0,
}
MAY_LOSE = {
    "classification",
    "spam",
    "questions",
    "retrieval",
    "long_context",
}  # so short a training isn't enough, as their page says
DEFAULT = "sentiment"


def run_recipe(name, folder):
    command = [str(ROOT / "recipes" / f"{name}.sh"), str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable}, cwd=ROOT, timeout=1800
    )
    if "needs that package" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def table(printed):
    """The first figure of each line after the last empty one, by its name."""
    lines = printed.rstrip().rpartition("\n\n")[2].splitlines()[1:]
    return {line[:30].strip(): float(line[30:].split()[0]) for line in lines}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == DEFAULT else pytest.mark.full) for name in LEAST]
)
def test_a_recipe_is_one_command_and_ends_in_a_table(name, tmp_path):
    printed = run_recipe(name, tmp_path / "out")
    if name == "sentiment":
        assert re.search(r"^test: loss 0\.\d{4} before, 0\.\d{4} now: 0\.\d{4} better$", printed, re.MULTILINE)
    figures = table(printed)
    model = figures.pop("banyan")
    assert figures
    assert model >= LEAST[name]
    if name not in MAY_LOSE:
        assert model > max(figures.values())


def test_each_recipe_has_its_page_and_its_test():
    names = {path.stem for path in (ROOT / "recipes").glob("*.sh")} - {"setup", "models"}
    shown = set(re.findall(r"^recipes/(\w+)\.sh$", (ROOT / "docs" / "RECIPES.md").read_text(), re.MULTILINE))
    assert names == set(LEAST) == shown


@pytest.mark.parametrize("script", sorted((ROOT / "recipes").glob("*.sh")), ids=lambda script: script.stem)
def test_each_script_parses_and_may_be_run(script):
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    if script.stem in LEAST:
        assert os.access(script, os.X_OK)
        assert (script.with_suffix(".py")).is_file()


@pytest.mark.parametrize("name", sorted(LEAST))
def test_no_recipe_trains_on_what_it_prepared_of_its_test_records(name):
    script = (ROOT / "recipes" / f"{name}.sh").read_text().replace("\\\n", " ")
    commands = [line.split() for line in script.splitlines() if line.lstrip().startswith("banyan ")]
    held_out = {
        word.split("=")[1] for line in commands if "data.input=test.jsonl" in line for word in line if "output=" in word
    }
    trained = {word.split("=")[1] for line in commands for word in line if word.startswith("data.path=")}
    assert trained
    assert not trained & held_out
