"""What must never change by accident: tokens and their order to the bit, losses to 1e-5.

After a change that is meant to move them: `python -m tests.test_golden` writes golden.json anew; say why in the commit.
"""

import hashlib
import json
import tempfile
from pathlib import Path

import pytest

from tests.corpus import make_dataset, make_tokenizer
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.config.ramps import Ramps
from trainer.data.tokens.datasets import open_training, weights_of
from trainer.data.tokens.loader import Loader
from trainer.data.tokens.order import Order, extend
from trainer.objective.causal import Causal

GOLDEN = Path(__file__).with_name("golden.json")


def measure(folder: Path) -> dict:
    """Hashes of tokenizer, shards and batches, and the losses and norms of ten steps."""
    manifest = make_dataset(folder / "data", documents=60)
    config = small_config(folder / "data", folder / "run")
    sets = open_training(config.data)
    rows = [dataset.rows for dataset in sets]
    segments = extend([], first=0, rows=rows, weights=weights_of(config.data))
    order = Order(rows, segments, seed=config.seed, window=config.data.shuffle_shards)
    loader = Loader(sets, order, Ramps(8), 2, 0, 1, to_batch=Causal(0, None).to_batch, prefetch=1)
    batches = hashlib.sha256()
    stream = loader.batches(0)
    for _ in range(200):
        batches.update(next(stream).inputs.numpy().tobytes())
    stream.close()
    assert run_ranks(pretrain, config, 1) == [0]
    metrics = read_metrics(folder / "run")
    return {
        "tokenizer": make_tokenizer().sha256,
        "shards": [shard.sha256 for shard in manifest.shards],
        "fingerprint": manifest.fingerprint,
        "batches": batches.hexdigest(),
        "losses": [row["train/loss"] for row in metrics],
        "norms": [row["train/grad_norm"] for row in metrics],
    }


def test_tokens_order_and_losses_are_the_golden_ones(tmp_path):
    golden, measured = json.loads(GOLDEN.read_text()), measure(tmp_path)
    for name in ("tokenizer", "shards", "fingerprint", "batches"):
        assert measured[name] == golden[name]
    assert measured["losses"] == pytest.approx(golden["losses"], rel=1e-5)
    assert measured["norms"] == pytest.approx(golden["norms"], rel=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(json.dumps(measure(Path(folder)), indent=1) + "\n")
