"""Losses and gradient norms equal those of Hugging Face's own code, given labels, at every shape of run."""

import itertools

import numpy as np
import pytest
import torch

from tests.engine.reference import assert_same_course, build_plain_optimizers
from tests.labels import configure, copies, labelled, prepared, tagged, write_config
from tests.run_ranks import pretrain, run_ranks, start_ranks
from tests.states import assert_equal_states
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.loader import IGNORED
from trainer.data.tokens.order import Order, extend
from trainer.engine.schedule import scheduled_rate
from trainer.model.build import initial_weights
from trainer.model.hugging_face.causal_lm import build_inner
from trainer.model.region import Region
from trainer.objective.build import build_objective, members_of
from trainer.run.objective import settle_objective

# By name: kind of model, objective, data
TASKS = {
    "masked": ("bert", "masked", "text"),
    "masked roberta": ("roberta", "masked", "text"),
    "masked modernbert": ("modernbert", "masked", "text"),
    "spans": ("t5", "seq2seq", "text"),
    "pairs": ("t5", "seq2seq", "copies"),
    "pairs bart": ("bart", "seq2seq", "copies"),
    "classify": ("bert", "classify", "labelled"),
    "classify roberta": ("roberta", "classify", "labelled"),
    "classify decoder": ("gpt2", "classify", "labelled"),
    "tag": ("bert", "tag", "tagged"),
    "tag modernbert": ("modernbert", "tag", "tagged"),
}
ALWAYS = [("masked", 2, 3), ("pairs", 1, 2), ("classify decoder", 1, 0), ("tag", 1, 0)]
CASES = [
    pytest.param(*case, marks=() if case in ALWAYS else pytest.mark.full)
    for case in itertools.product(TASKS, (1, 2), (0, 2, 3))
]


@pytest.fixture(scope="module")
def data(corpus, tmp_path_factory):
    """Data by name, made when they are asked for."""
    records = {
        "copies": ("seq2seq", copies(90)),
        "labelled": ("labelled", labelled(90)),
        "tagged": ("tagged", tagged(90)),
    }
    made = {"text": corpus}

    def make(name):
        if name not in made:
            made[name] = prepared(tmp_path_factory.mktemp(name), *records[name])
        return made[name]

    return make


def configure_task(task, data, run_dir, folder, **changes):
    kind, objective, source = TASKS[task]
    if source == "copies":
        changes["data__packing"] = "single"
    return configure(data(source), run_dir, write_config(folder, kind), objective, **changes)


def own_loss(inner, objective, batch):
    """What Hugging Face's model makes of a batch and its labels: the mean over all that count."""
    there = {} if batch.document_ids is None else {"attention_mask": (batch.document_ids == 0).long()}
    inputs = batch.inputs
    if there:
        pad = inner.config.pad_token_id
        inputs = torch.where(batch.document_ids == 0, inputs, pad)
    labels = batch.targets[:, 0] if objective == "classify" else batch.targets
    more = {"use_cache": False} if objective == "seq2seq" else {}
    return inner(input_ids=inputs, labels=labels, **there, **more).loss


@pytest.fixture(scope="module")
def courses(data, tmp_path_factory):
    """(loss, norm) of each step of a task by transformers' own code, in one process."""
    known = {}

    def course(task):
        if task not in known:
            folder = tmp_path_factory.mktemp("plain")
            known[task] = train_with_transformers(configure_task(task, data, folder / "run", folder / "model"))
        return known[task]

    return course


def train_with_transformers(config):
    config = settle_objective(config)
    (dataset,) = open_training(config.data, config.seed, members_of(config.objective))
    objective = build_objective(config.objective, config.data, dataset.manifest, seed=config.seed)
    inner, make = build_inner(config.model).train(), initial_weights(config.model, config.seed)
    with torch.no_grad():
        for name, parameter in inner.named_parameters():
            parameter.copy_(make(name, Region.of_slice(tuple(parameter.shape), None)).view(parameter.shape))
    optimizers = build_plain_optimizers(config.optimizer, inner)
    segments = extend([], first=0, rows=[dataset.rows], weights={"train": 1.0})
    order = Order([dataset.rows], segments, seed=config.seed, window=config.data.shuffle_shards)
    size, course = config.train.batch_size, []
    for step in range(1, config.train.steps + 1):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = scheduled_rate(
                config.schedule, peak=config.optimizer.lr, step=step, total_steps=config.train.steps
            )
        positions = np.arange((step - 1) * size, step * size)
        places = order.locate(positions)
        batch = objective.to_batch(dataset.gather_rows(places.shard, places.row), positions=positions)
        assert (batch.targets != IGNORED).any(dim=1).all()
        loss = own_loss(inner, config.objective.name, batch)
        inner.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(inner.parameters(), config.train.gradient_clipping)
        for optimizer in optimizers:
            optimizer.step()
        course.append((loss.item(), norm.item()))
    return course


@pytest.mark.parametrize(("task", "ranks", "stage"), CASES)
def test_losses_and_norms_equal_transformers_own(data, courses, tmp_path, task, ranks, stage):
    changes = {"parallel__zero_stage": stage, "train__micro_batch_size": 4 if stage == 2 else 2}
    config = configure_task(task, data, tmp_path / "run", tmp_path / "model", **changes)
    assert run_ranks(pretrain, config, ranks) == [0] * ranks
    assert_same_course(tmp_path / "run", courses(task), 1e-5)


RESUMED = [
    "masked",
    *(pytest.param(task, marks=pytest.mark.full) for task in ("spans", "pairs bart", "classify", "tag")),
]


@pytest.mark.parametrize("task", RESUMED)
def test_resume_is_exact(data, tmp_path, task):
    whole, broken = (configure_task(task, data, tmp_path / name, tmp_path / "model") for name in ("whole", "broken"))
    assert run_ranks(pretrain, whole, 1) == [0]
    broken.train.stop_at = 2
    assert run_ranks(pretrain, broken, 1) == [85]
    broken.train.stop_at = None
    assert run_ranks(pretrain, broken, 1) == [0]
    assert_equal_states(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.full
@pytest.mark.parametrize("task", ["masked", "pairs", "tag"])
def test_kill_on_two_ranks_goes_on_to_the_bit(data, tmp_path, task):
    changes = {"parallel__zero_stage": 2, "train__steps": 40, "checkpoint__every": 5}
    calm, killed = (
        configure_task(task, data, tmp_path / name, tmp_path / "model", **changes) for name in ("calm", "killed")
    )
    assert run_ranks(pretrain, calm, 2) == [0, 0]
    start_ranks(pretrain, killed, 2).kill_once_saved(tmp_path / "killed")
    assert run_ranks(pretrain, killed, 2) == [0, 0]
    assert_equal_states(tmp_path / "calm", tmp_path / "killed")
