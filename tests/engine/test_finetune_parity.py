"""Fine-tuning gives the same losses and norms however rows are packed, at any micro-batch, ranks and ZeRO stage."""

import itertools

import numpy as np
import pytest
import torch

from tests.engine.reference import assert_same_course, build_plain_optimizers
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from tests.targets import make_masked_dataset
from trainer.checkpoint.find import find_checkpoint
from trainer.checkpoint.reader import read_weights
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.loader import IGNORED
from trainer.data.tokens.order import Order, extend
from trainer.engine.schedule import scheduled_rate
from trainer.model.decoder import Transformer
from trainer.objective.causal import Causal

LENGTH, STEPS = 32, 5
ALWAYS = [(1, 0, 4), (2, 0, 1), (2, 2, 4), (2, 3, 1)]
SHAPES = [
    pytest.param(*shape, marks=() if shape in ALWAYS else pytest.mark.full)
    for shape in itertools.product((1, 2), (0, 2, 3), (1, 4))
]


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    """A run whose model is adapted."""
    folder = tmp_path_factory.mktemp("base") / "run"
    assert run_ranks(pretrain, small_config(corpus, folder, train__steps=3), 1) == [0]
    return folder


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    return make_masked_dataset(tmp_path_factory.mktemp("chats") / "masked", documents=90, longest=28).folder


def configure(base, chats, run_dir, **changes):
    settings = {
        "data__sequence_length": LENGTH,
        "data__packing": "whole",
        "train__steps": STEPS,
        "train__micro_batch_size": 8,
        "model__init_from": str(base),
        **changes,
    }
    return small_config(chats, run_dir, **settings)


def in_rows_of_their_own(batch):
    """The documents of a batch, one to a row, padded: inputs, targets."""
    inputs, targets = [], []
    for row, ids in enumerate(batch.document_ids):
        for number in ids.unique().tolist():
            mine = ids == number
            if (batch.targets[row][mine] != IGNORED).any():
                room = LENGTH - int(mine.sum())
                inputs.append(torch.nn.functional.pad(batch.inputs[row][mine], (0, room)))
                targets.append(torch.nn.functional.pad(batch.targets[row][mine], (0, room), value=IGNORED))
    return torch.stack(inputs), torch.stack(targets)


def train_documents_apart(config, base):
    """(loss, norm, targets) of each step in plain PyTorch, every document in a row of its own."""
    (dataset,) = open_training(config.data, config.seed)
    config.model.vocab_size = dataset.manifest.vocab_size
    model = Transformer(config.model)
    weights = dict(read_weights(find_checkpoint(base, None)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    optimizers = build_plain_optimizers(config.optimizer, model)
    segments = extend([], first=0, rows=[dataset.rows], weights={"train": 1.0})
    order = Order([dataset.rows], segments, seed=config.seed, window=config.data.shuffle_shards)
    size, course = config.train.batch_size, []
    for step in range(1, STEPS + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = scheduled_rate(config.schedule, peak=config.optimizer.lr, step=step, total_steps=STEPS)
        positions = np.arange((step - 1) * size, step * size)
        places = order.locate(positions)
        batch = Causal(LENGTH, None).to_batch(dataset.gather_rows(places.shard, places.row), positions=positions)
        inputs, targets = in_rows_of_their_own(batch)
        count = int((targets != IGNORED).sum())
        loss = model(inputs, targets).sum() / count
        model.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.gradient_clipping)
        for optimizer in optimizers:
            optimizer.step()
        course.append((loss.item(), norm.item(), count))
    return course


@pytest.fixture(scope="module")
def reference(base, chats, tmp_path_factory):
    return train_documents_apart(configure(base, chats, tmp_path_factory.mktemp("plain")), base)


@pytest.mark.parametrize(("ranks", "stage", "micro"), SHAPES)
def test_packed_rows_train_as_documents_in_rows_of_their_own(base, chats, tmp_path, reference, ranks, stage, micro):
    changes = {"train__micro_batch_size": micro, "parallel__zero_stage": stage}
    config = configure(base, chats, tmp_path / "run", **changes)
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    rows = assert_same_course(tmp_path / "run", [(loss, norm) for loss, norm, _ in reference], 1e-5)
    assert np.diff([row["tokens"] for row in rows], prepend=0).tolist() == [count for *_, count in reference]


def test_losses_would_differ_if_documents_saw_each_other_or_all_tokens_counted(base, chats, tmp_path, reference):
    """What the tolerance above can tell apart."""
    config = configure(base, chats, tmp_path / "run", data__packing="stream")
    assert run_ranks(pretrain, config, 1) == [0]
    assert abs(read_metrics(tmp_path / "run")[0]["train/loss"] / reference[0][0] - 1) > 1e-3
