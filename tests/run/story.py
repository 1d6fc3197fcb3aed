"""A run with a story, by real processes: two kills, a change of layout, two validation sets, a bad stretch of data.

start 1   2 ranks, ZeRO 1, by the command line; rank 1 is killed, and the launcher says so
start 2   2 ranks, ZeRO 1; all are killed at once, so that nobody says anything
start 3   1 rank, ZeRO 0, to the end; from step BAD on it trains on two steps of noise
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from launch.compose import compose
from tests.corpus import make_dataset, make_tokenizer, to_block, write_dataset_manifest, write_texts
from tests.run_ranks import pretrain, run_ranks, start_ranks
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.order import Order, Rows, extend, rows_in
from trainer.data.tokens.shard_writer import write_shard

LENGTH, BATCH, STEPS = 32, 4, 72
SHARDS, DOCUMENTS = 36, 5  # documents in each
NOISE_RECORD = SHARDS * DOCUMENTS
SAVED_EVERY, SEEN_EVERY = 10, 24


def make_data(folder: Path) -> None:
    """Shards of a few steps each, one of which is a document of noise; and two validation sets."""
    tokenizer = make_tokenizer()
    train = folder / "train"
    train.mkdir(parents=True)
    tokenizer.save(train / "tokenizer")
    texts = write_texts(NOISE_RECORD, seed=3)
    noise = random.Random(0)
    texts.append(" ".join("".join(noise.choices("qzxjvkw#@~^", k=9)) for _ in range(60)))
    written = []
    for number in range(SHARDS):
        chosen = list(range(number * DOCUMENTS, (number + 1) * DOCUMENTS))
        written.append(
            write_shard(train / f"shard-{number:06d}.tar", [to_block(tokenizer, texts, chosen)], dtype="uint16")
        )
    path = train / f"shard-{SHARDS:06d}.tar"
    written.append(write_shard(path, [to_block(tokenizer, texts, [NOISE_RECORD])], dtype="uint16"))
    write_dataset_manifest(train, tokenizer, written, dtype="uint16", documents=len(texts))
    make_dataset(folder / "validation", documents=8, shards=1, seed=5, tokenizer=tokenizer)
    make_dataset(folder / "poems", documents=8, shards=1, seed=6, tokenizer=tokenizer)


def find_seed(folder: Path) -> tuple[int, int]:
    """A seed whose order has a step of noise alone late in the run, and that step."""
    manifest = read_manifest(folder / "train")
    counts = tuple(rows_in(shard.tokens, LENGTH) for shard in manifest.shards)
    rows = Rows("train", manifest.fingerprint, counts)
    segments = extend([], first=0, rows=[rows], weights={"train": 1.0})
    for seed in range(1000):
        places = Order([rows], segments, seed=seed, window=1).places(0, STEPS * BATCH)
        noisy = [
            sum(place.shard == SHARDS for place in places[step * BATCH : (step + 1) * BATCH]) for step in range(STEPS)
        ]
        whole = [step + 1 for step, rows_of_noise in enumerate(noisy) if rows_of_noise == BATCH]
        if whole and 52 <= whole[0] <= 64 and not any(noisy[: whole[0] - 3]):
            return seed, whole[0]
    raise AssertionError("no seed puts the noise there")


def overrides(data: Path, run_dir: Path, seed: int) -> list[str]:
    """What all starts have in common."""
    return [
        f"data.path={data}",
        *(f"data.validation.{name}.path={data / name}" for name in ("validation", "poems")),
        *(f"run.dir={run_dir}", f"seed={seed}", f"data.sequence_length={LENGTH}", "data.shuffle_shards=1"),
        *("model.hidden_size=48", "model.intermediate_size=96", "model.num_hidden_layers=2"),
        *("model.num_attention_heads=4", "model.num_key_value_heads=2", "train.precision=fp32"),
        *(f"train.steps={STEPS}", f"train.batch_size={BATCH}", "train.micro_batch_size=2", "train.profile=[68,69]"),
        *("optimizer.lr=1e-2", "schedule.warmup_steps=2", "track.every=1", "track.wandb.mode=disabled"),
        *("health.layers_every=4", "health.window=64"),
        *(f"checkpoint.every={SAVED_EVERY}", f"evaluate.every={SEEN_EVERY}", "evaluate.bigram=false"),
        *("evaluate.prompt=the", "evaluate.prompts=['the tree','<i>rain</i>']", "evaluate.prompt_tokens=8"),
    ]


def last_step(run_dir: Path) -> int:
    """The last step that was logged."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines()[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def wait_for(run_dir: Path, step: int, lives: Callable[[], bool]) -> None:
    """Returns once a step has been logged."""
    deadline = time.monotonic() + 120
    while last_step(run_dir) < step:
        assert lives(), f"it ended before step {step}"
        assert time.monotonic() < deadline, f"step {step} wasn't reached"
        time.sleep(0.01)


def tell(folder: Path) -> tuple[Path, int]:
    """Makes the run in a folder; its directory, and the step of noise."""
    data, run_dir = folder / "data", folder / "<b>story"
    make_data(data)
    seed, bad = find_seed(data)
    common = overrides(data, run_dir, seed)
    quoted = [f"run.dir='{run_dir}'" if each.startswith("run.dir=") else each for each in common]
    command = [sys.executable, "-P", "-m", "launch", "pretrain", *quoted, "launch.processes=2", "parallel.zero_stage=1"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with (
        (folder / "first.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as first,
    ):
        wait_for(run_dir, SAVED_EVERY + 3, lambda: first.poll() is None)
        victim = json.loads((run_dir / "heartbeats" / "rank-00001").read_text())["pid"]
        os.kill(victim, signal.SIGKILL)
        assert first.wait(60) == 128 + signal.SIGKILL
    assert "rank 1 was killed by SIGKILL" in (folder / "first.log").read_text()
    config = compose("pretrain", [*quoted, "parallel.zero_stage=1"])
    second = start_ranks(pretrain, config, 2)
    wait_for(run_dir, 3 * SAVED_EVERY + 3, lambda: all(process.is_alive() for process in second.processes))
    second.kill()
    assert run_ranks(pretrain, compose("pretrain", [*quoted, "parallel.zero_stage=0"]), 1) == [0]
    return run_dir, bad
