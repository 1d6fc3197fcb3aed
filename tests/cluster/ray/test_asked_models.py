"""data.reference and data.teacher on a Ray cluster: the bytes are those of one process here, whatever is killed."""

import pytest

from tests.cluster.ray.test_prepare import workers_of
from tests.corpus import write_texts
from tests.pairs import make_base, prepare_pairs, write_pairs
from tests.prepared import prepare, shard_files, write_jsonl
from trainer.config import TokenizerSettings
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.verify import verify

SETTINGS = {"block_tokens": 150, "shard_bytes": 20_000, "validation_fraction": 0.2}
KINDS = {"reference": {}, "teacher": {"teacher_top_k": 7, "teacher_temperature": 2.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base, pairs and texts."""
    folder = tmp_path_factory.mktemp("asked")
    make_base(folder)
    write_pairs(folder / "reference.jsonl", 120)
    write_jsonl(folder / "teacher.jsonl", write_texts(60, seed=3))
    return folder


@pytest.mark.full
@pytest.mark.parametrize(("member", "kills"), [("reference", 0), ("teacher", 1)])
def test_what_models_say_on_ray_is_what_they_say_here(daemons, folder, tmp_path, member, kills):
    settings = {**SETTINGS, **KINDS[member], member: str(folder / "base")}
    source, output = folder / f"{member}.jsonl", tmp_path / "ray"
    typed = [f"data.{name}={value}" for name, value in settings.items()]
    typed += [f"data.input={source}", f"data.output={output}", f"data.tokenizer.path={folder / 'text'}"]
    typed += ["data.format=preference"] * (member == "reference")
    driver = daemons.banyan("prepare", "launch=ray", *typed, log=tmp_path / "driver.log")
    for _ in range(kills):
        driver.wait_until(lambda: workers_of(daemons) and list((output / "partial").glob("*.npz")))
        for worker in workers_of(daemons):
            worker.kill()
    assert driver.wait() == 0, driver.output()
    manifest = read_manifest(output / "train")
    assert member in manifest.members
    assert verify(manifest) == []
    if member == "reference":
        here = prepare_pairs(source, tmp_path / "here", folder / "text", **settings)
    else:
        tokenizer = TokenizerSettings(path=str(folder / "text"))
        here = prepare(source, tmp_path / "here", tokenizer=tokenizer, **settings)
    assert shard_files(output) == shard_files(here)
