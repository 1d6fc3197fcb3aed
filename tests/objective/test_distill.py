"""objective=distill: the cached divergence is the full one within its stated bound; alpha=0 is plain training."""

import numpy as np
import pytest
import torch

from tests.objective.pair_rows import VOCABULARY, tiny_model
from tests.pairs import make_base
from tests.prepared import prepare
from tests.run_ranks import fail_ranks, pretrain, read_metrics, run_ranks, small_config
from tests.states import assert_equal_states
from trainer.adapt.teacher import Likeliest
from trainer.config import ObjectiveSettings, TokenizerSettings
from trainer.data.tokens.loader import IGNORED, Batch
from trainer.objective.causal import Causal
from trainer.objective.distill import Distill, cached_divergence, full_divergence


def draw_logits(count=200, seed=0):
    """Of a student and a teacher, of all kinds: flat, and sharp."""
    generator = torch.Generator().manual_seed(seed)
    sharpness = torch.logspace(-1, 1, count)[:, None]
    return (torch.randn(count, VOCABULARY, generator=generator) * sharpness for _ in range(2))


@pytest.mark.parametrize("top_k", [1, 4, 30, VOCABULARY - 1])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_cached_divergence_is_below_the_full_one_by_at_most_the_bound(top_k, temperature):
    student, teacher = draw_logits()
    stored = Likeliest(top_k, temperature, VOCABULARY)(teacher)
    values, ids = stored[:, : top_k + 1], stored[:, top_k + 1 :].long()
    student, teacher = student / temperature, teacher / temperature
    full, cached = full_divergence(student, teacher), cached_divergence(student, values, ids)
    p, q = teacher.double().softmax(dim=1), student.double().softmax(dim=1)
    p_rest, q_rest = (x.scatter(1, ids, 0).sum(dim=1) for x in (p, q))
    others = torch.ones_like(p, dtype=torch.bool).scatter(1, ids, False)
    p_others, q_others = (torch.where(others, x, 0) / y[:, None] for x, y in ((p, p_rest), (q, q_rest)))
    left_out = p_rest * torch.where(others, torch.xlogy(p_others, p_others / q_others), 0).nansum(dim=1)
    assert torch.allclose((full - cached).double(), left_out, atol=2e-5)  # the identity that the bound comes from
    least = torch.clamp(values[:, top_k - 1].double().exp() / p_rest, max=1)
    bound = p_rest * torch.log(least * q_rest / q.min(dim=1).values)
    assert ((full - cached) >= -2e-5).all()
    assert ((full - cached) <= bound + 2e-5).all()


def test_gradients_are_the_formula_s_whether_asked_or_cached():
    teacher = tiny_model(seed=1).eval()
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(VOCABULARY, (3, 21), generator=generator)
    targets = tokens[:, 1:].masked_fill(tokens[:, 1:] % 4 == 0, IGNORED)
    ids = (torch.arange(20) // 8).expand(3, -1).contiguous()
    settings = ObjectiveSettings(name="distill", alpha=0.3, temperature=2.0)
    objective = Distill(settings, Causal(20, None), VOCABULARY)
    top_k = VOCABULARY - 1  # all but one: the cached divergence is the full one
    told = Likeliest(top_k, 2.0, VOCABULARY)(teacher(tokens[:, :-1], None, ids).detach().flatten(0, 1)).view(3, 20, -1)
    more = {"teacher": told[..., : top_k + 1], "teacher_ids": told[..., top_k + 1 :].long()}
    found = {}
    for name in ("asked", "cached", "by hand"):
        model = tiny_model(chunk=16)
        batch = Batch(tokens[:, :-1], targets, ids, np.arange(3), more if name == "cached" else {})
        if name == "by hand":
            logits = model(tokens[:, :-1], None, ids)
            p, log_q = (teacher(tokens[:, :-1], None, ids) / 2).softmax(dim=-1), (logits / 2).log_softmax(dim=-1)
            soft = ((p * (p.log() - log_q)).sum(dim=-1) * (targets != IGNORED)).sum(dim=1)
            hard = -logits.log_softmax(dim=-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
            losses = 0.7 * (hard * (targets != IGNORED)).sum(dim=1) + 0.3 * 4 * soft
        else:
            losses = objective.taught_by(teacher if name == "asked" else None).losses(model, batch).rows
        losses.sum().backward()
        found[name] = losses.detach(), {key: value.grad for key, value in model.named_parameters()}
    for name in ("asked", "cached"):
        assert torch.allclose(found[name][0], found["by hand"][0], rtol=1e-5)
        for key, gradient in found["by hand"][1].items():
            assert (found[name][1][key] - gradient).norm() <= 1e-4 * gradient.norm(), key


def test_evaluated_it_is_the_loss_of_the_text():
    model = tiny_model().eval()
    tokens = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    batch = Batch(tokens[:, :-1], tokens[:, 1:], None, np.arange(2))
    plain = Causal(8, None)
    objective = Distill(ObjectiveSettings(name="distill", alpha=0.5), plain, VOCABULARY, tiny_model(seed=1))
    assert torch.equal(objective.losses(model, batch).rows, plain.losses(model, batch).rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts with what a base says of all tokens but one, and the base."""
    folder = tmp_path_factory.mktemp("distill")
    text, base = make_base(folder)
    prepare(
        folder / "text.jsonl",
        folder / "taught",
        tokenizer=TokenizerSettings(path=str(text)),
        teacher=str(base),
        teacher_top_k=299,
        validation_fraction=0.1,
    )
    return folder


def configure(data, run_dir, **changes):
    settings = {
        "objective__name": "distill",
        "data__packing": "whole",
        "data__sequence_length": 32,
        "train__steps": 3,
        **changes,
    }
    return small_config(data, run_dir, **settings)


def test_nothing_of_a_teacher_is_plain_training_to_the_bit(folder, tmp_path):
    plain = configure(folder / "taught", tmp_path / "plain", objective__name="causal")
    without = configure(folder / "taught", tmp_path / "without", objective__alpha=0.0)
    assert run_ranks(pretrain, plain, 1) == run_ranks(pretrain, without, 1) == [0]
    assert_equal_states(tmp_path / "plain", tmp_path / "without")


def test_a_run_learns_the_same_from_a_teacher_asked_or_cached_on_any_ranks(folder, tmp_path):
    losses = {}
    asked = {"objective__teacher": str(folder / "base"), "evaluate__every": 3}
    for name, ranks, changes in (("asked", 1, asked), ("cached", 2, {"parallel__zero_stage": 3})):
        config = configure(folder / "taught", tmp_path / name, **changes)
        assert run_ranks(pretrain, config, ranks) == [0] * ranks
        losses[name] = [row["train/loss"] for row in read_metrics(tmp_path / name)]
    assert losses["asked"] == pytest.approx(losses["cached"], rel=1e-5)
    row = read_metrics(tmp_path / "asked")[-1]
    assert row["train/loss"] == pytest.approx((row["distill/hard"] + row["distill/divergence"]) / 2, rel=1e-6)
    assert "nats per token" in (tmp_path / "asked" / "summary.txt").read_text()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__path": "text"}, "no probabilities of a teacher"),
        ({"objective__temperature": 2.0}, "has a teacher's probabilities at 1.0"),
        ({"objective__teacher": "other"}, "its vocabulary is another than that of"),
    ],
)
def test_another_teacher_is_refused_in_a_line(folder, tmp_path, changes, said):
    changes = {key: str(folder / value) if isinstance(value, str) else value for key, value in changes.items()}
    if "objective__teacher" in changes and not (folder / "other").exists():
        from tests.corpus import make_dataset, make_tokenizer

        make_dataset(folder / "others" / "train", tokenizer=make_tokenizer(280))
        assert run_ranks(pretrain, small_config(folder / "others", folder / "other", train__steps=1), 1) == [0]
    codes, errors = fail_ranks(pretrain, configure(folder / "taught", tmp_path / "run", **changes))
    assert codes == [2]
    assert said in errors[0]
    assert "\n" not in errors[0]
