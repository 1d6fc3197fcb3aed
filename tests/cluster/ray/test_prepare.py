"""prepare on a Ray cluster writes what prepare writes, whatever is killed meanwhile."""

import psutil
import pytest

from launch.compose import compose
from tests.cluster.ray.daemons import wait_until
from tests.killed import large_files
from tests.planted import evaluation_set, overrides, real_texts, write_corpus
from tests.prepared import prepare, shard_files, write_folder
from trainer.data.tokens.manifest import read_manifest
from trainer.machine.sealing.plaintext import is_sealed
from trainer.verbs.prepare import main

SETTINGS = ["data.validation_fraction=0", "data.shard_bytes=20000", "data.block_tokens=1000"]
SETTINGS += ["data.tokenizer.train.vocab_size=300"]


def workers_of(daemons):
    """Ray's processes that run a task of prepare."""
    return [process for process in psutil.process_iter(["name"]) if process.info["name"] == "ray::call"]


@pytest.mark.parametrize("victim", ["worker", pytest.param("node", marks=pytest.mark.full)])
def test_prepare_with_something_killed_writes_the_same_bytes(daemons, tmp_path, victim):
    texts = write_folder(tmp_path / "texts", 3000)
    large_files(texts / "others")
    node = daemons.add_node(2, cpus=2) if victim == "node" else None
    driver = daemons.banyan(
        *("prepare", "launch=ray", f"data.input={texts}", f"data.output={tmp_path / 'ray'}", *SETTINGS),
        log=tmp_path / "driver.log",
    )
    shards = tmp_path / "ray" / "train"
    driver.wait_until(lambda: workers_of(daemons) and len(list(shards.glob("*.tar"))) > 2)
    if node is not None:
        daemons.kill_node(node)
    for worker in [] if node else workers_of(daemons):
        worker.kill()
    assert driver.wait() == 0
    assert shard_files(tmp_path / "ray") == shard_files(prepare(texts, tmp_path / "local"))
    wait_until(lambda: not workers_of(daemons), 30)


@pytest.mark.full
def test_a_planted_corpus_is_the_same_with_workers_killed(daemons, tmp_path):
    """Cleaning, near-duplicates and their records, too: workers are killed while they read, and while they encode."""
    corpus, evaluation = write_corpus(tmp_path / "corpus", real_texts()), evaluation_set(tmp_path / "evaluation.jsonl")
    typed = overrides(corpus, evaluation, tmp_path / "ray")
    driver = daemons.banyan("prepare", "launch=ray", *typed, log=tmp_path / "driver.log")
    for pattern in ("partial/read-*.json", "train/*.tar"):
        driver.wait_until(lambda pattern=pattern: workers_of(daemons) and list((tmp_path / "ray").glob(pattern)))
        for worker in workers_of(daemons):
            worker.kill()
    assert driver.wait() == 0
    assert main(compose("prepare", [*overrides(corpus, evaluation, tmp_path / "local"), "data.workers=1"])) == 0
    assert shard_files(tmp_path / "ray") == shard_files(tmp_path / "local")


@pytest.mark.full
def test_workers_encrypt_with_the_users_key(daemons, tmp_path):
    texts, key = write_folder(tmp_path / "texts", 300), tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text("5a" * 32)
    driver = daemons.banyan(
        *("prepare", "launch=ray", f"data.input={texts}", f"data.output={tmp_path / 'ray'}", *SETTINGS),
        f"data.encryption.key_file={key}",
        log=tmp_path / "driver.log",
    )
    assert driver.wait() == 0
    shards = list((tmp_path / "ray" / "train").glob("*.tar"))
    assert shards
    assert all(is_sealed(shard) for shard in shards)
    fingerprints = [
        read_manifest(folder / "train").fingerprint for folder in (tmp_path / "ray", prepare(texts, tmp_path / "local"))
    ]
    assert fingerprints[0] == fingerprints[1]
