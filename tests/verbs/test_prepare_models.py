"""banyan prepare data.reference and data.teacher: the same bytes on any number of processes and after any kill."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch

from tests.corpus import write_texts
from tests.killed import kill_after_files
from tests.pairs import make_base, prepare_pairs, write_pairs
from tests.prepared import configure, prepare, shard_files, write_jsonl
from trainer.config import TokenizerSettings
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.verify import verify
from trainer.errors import ConfigError
from trainer.run.frozen_model import find_frozen
from trainer.verbs.prepare import main

PROGRAM = """
import json, sys
from tests.prepared import configure
from trainer.config import TokenizerSettings
from trainer.verbs.prepare import main

if __name__ == "__main__":
    source, output, text, workers, settings = sys.argv[1:]
    tokenizer = TokenizerSettings(path=text)
    main(configure([source], output, workers=int(workers), tokenizer=tokenizer, **json.loads(settings)))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, pairs with its log-probabilities, and texts with what it says of each token."""
    folder = tmp_path_factory.mktemp("models")
    text, base = make_base(folder)
    prepare_pairs(write_pairs(folder / "pairs.jsonl", 90), folder / "pairs", text, **of_pairs(base))
    prepare(write_texts_to(folder), folder / "taught", tokenizer=TokenizerSettings(path=str(text)), **taught(base))
    return folder


def of_pairs(base):
    return {"reference": str(base), "validation_fraction": 0.1, "block_tokens": 500}


def taught(base):
    return {"teacher": str(base), "teacher_top_k": 5, "block_tokens": 150, "shard_bytes": 4000}


def write_texts_to(folder):
    return write_jsonl(folder / "taught.jsonl", write_texts(20, seed=3))


def run(folder, source, output, workers, settings):
    """prepare in a process of its own."""
    (folder / "run.py").write_text(PROGRAM)
    arguments = [folder / source, output, folder / "text", str(workers), json.dumps(settings)]
    return subprocess.Popen(
        [sys.executable, folder / "run.py", *arguments], env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    )


def test_reference_log_probabilities_are_those_of_each_answer_alone(folder):
    manifest = read_manifest(folder / "pairs" / "train")
    assert verify(manifest) == []
    assert manifest.members == {"sides": 1, "reference": 2}
    place = find_frozen(str(folder / "base"), key="data.reference")
    assert asdict(manifest.models["reference"]) == {
        "path": str(place.folder),
        "sha256": place.sha256,
        "precision": "fp32",
        "temperature": 1.0,
    }
    model = place.load(torch.device("cpu"), "fp32")
    (reader,) = open_shards(manifest)
    assert len(reader.index) > 2
    block = reader.block(1)
    starts = np.cumsum(block.lengths) - block.lengths
    for number in range(3):
        middle = int(starts[number] + block.members["sides"][number, 0])
        for side, (begin, end) in enumerate(
            ((starts[number], middle), (middle, starts[number] + block.lengths[number]))
        ):
            tokens = torch.from_numpy(block.tokens[begin:end].astype(np.int64))[None]
            with torch.no_grad():
                found = model(tokens[:, :-1]).double().log_softmax(dim=2)[0]
            wanted = block.targets[begin + 1 : end]
            value = found[range(len(wanted)), tokens[0, 1:]][torch.from_numpy(wanted)].sum().item()
            assert block.members["reference"][number, side] == pytest.approx(value, abs=1e-4)


def test_a_teacher_s_likeliest_tokens_and_the_mass_of_the_others(folder):
    manifest = read_manifest(folder / "taught" / "train")
    assert verify(manifest) == []
    assert manifest.members == {"teacher": 6, "teacher_ids": 5}
    model = find_frozen(str(folder / "base"), key="data.teacher").load(torch.device("cpu"), "fp32")
    block = open_shards(manifest)[0].block(0)
    first = block.tokens[: block.lengths[0]].astype(np.int64)
    shown = min(len(first) - 1, 32)  # what the base was trained to see
    with torch.no_grad():
        found = model(torch.from_numpy(first[None, :shown])).log_softmax(dim=2)[0]
    values, ids = found.topk(5)
    stored, stored_ids = block.members["teacher"][1 : shown + 1], block.members["teacher_ids"][1 : shown + 1]
    assert np.array_equal(stored_ids, ids.numpy())
    assert np.allclose(stored[:, :5], values.numpy(), atol=1e-5)
    assert np.allclose(np.exp(stored[:, :5]).sum(axis=1) + stored[:, 5], 1, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kills"),
    [("pairs", 1), pytest.param("pairs", 4, marks=pytest.mark.full), pytest.param("taught", 4, marks=pytest.mark.full)],
)
def test_the_bytes_are_the_same_on_two_processes_and_after_kills(folder, tmp_path, name, kills):
    settings = (
        of_pairs(str(folder / "base")) | {"format": "preference"} if name == "pairs" else taught(str(folder / "base"))
    )
    output, hit = tmp_path / "out", 0
    while hit < kills:
        process = run(folder, f"{name}.jsonl", output, 2, settings)
        hit += kill_after_files(process, output / "partial", 1, "*.npz")
        if not (output / "partial").exists():
            shutil.rmtree(output)  # it came to its end: begin again
            hit = 0
    assert run(folder, f"{name}.jsonl", output, 2, settings).wait() == 0
    assert shard_files(output) == shard_files(folder / name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"reference": "base"}, "set data.format=preference"),
        ({"teacher": "base", "format": "preference"}, "pairs aren't distilled"),
        ({"teacher": "nowhere"}, "there is no such folder"),
        ({"teacher": "text"}, "give one of these folders"),
        ({"teacher": "base", "tokenizer": None}, "its vocabulary is another than that of"),
        ({"teacher": "base", "teacher_top_k": 300}, "the vocabulary has 300 tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(folder, tmp_path, settings, said):
    settings = {
        name: str(folder / value) if value in ("base", "text", "nowhere") else value for name, value in settings.items()
    }
    tokenizer = TokenizerSettings(path=str(folder / "text"))
    if "tokenizer" in settings:
        tokenizer = configure([], tmp_path).data.tokenizer
        del settings["tokenizer"]
    source = write_jsonl(tmp_path / "other.jsonl", [text[::-1] for text in write_texts(30, seed=8)])
    with pytest.raises(ConfigError, match=said) as caught:
        main(configure(source, tmp_path / "out", tokenizer=tokenizer, **settings))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "train").exists()


def test_another_reference_is_other_data(folder, tmp_path):
    config = configure(
        folder / "pairs.jsonl",
        folder / "pairs",
        format="preference",
        tokenizer=TokenizerSettings(path=str(folder / "text")),
        **of_pairs(str(folder / "base")) | {"reference": None},
    )
    with pytest.raises(ConfigError, match="holds other data"):
        main(config)
