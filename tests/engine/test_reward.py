"""objective=reward: Bradley–Terry by hand, learnt on real ranks, and the same scores by Hugging Face's classifier."""

import numpy as np
import pytest
import torch

from tests.objective.pair_rows import draw_pairs, rows_of
from tests.pairs import make_base, preference_config, prepare_pairs, write_pairs
from tests.run_ranks import pretrain, read_metrics, run_ranks
from trainer.config import Export
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError
from trainer.objective.reward import Reward
from trainer.rules.pretrain import check_pretrain
from trainer.verbs.export import main

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base as a Hugging Face folder, and pairs."""
    folder = tmp_path_factory.mktemp("reward")
    text, base = make_base(folder)
    export(base, folder / "hf")
    prepare_pairs(
        write_pairs(folder / "pairs.jsonl", 120, ends=(" stone", " water")),
        folder / "pairs",
        text,
        validation_fraction=0.2,
    )
    return folder


def export(run_dir, output):
    settings = Export()
    settings.run.dir, settings.export.output = str(run_dir), str(output)
    assert main(settings) == 0


def configure(folder, run_dir, **changes):
    settings = {
        "objective__name": "reward",
        "model__init_from": None,
        "model__path": str(folder / "hf"),
        "model__overrides": {"max_position_embeddings": 96},
        "data__packing": "single",
        "train__steps": 12,
        "optimizer__lr": 1e-2,
        **changes,
    }
    config = preference_config(folder / "pairs", folder, run_dir, **settings)
    for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"):
        setattr(config.model, key, type(config.model)().__dict__[key])
    return config


def test_the_loss_is_the_formula_s_of_both_sides_alone():
    pairs = draw_pairs(4)
    rows = [[pair] for pair in pairs]
    weights = torch.linspace(-1, 1, 61)

    def model(texts, padding):
        """A stand-in whose reward of a text is a sum over its tokens."""
        return (weights[texts] * (padding == 0)).sum(dim=1, keepdim=True)

    batch = Reward().to_batch(rows_of(rows, 48), positions=np.arange(4))
    found = Reward().losses(model, batch)
    for row, pair in enumerate(pairs):
        chosen, rejected = (
            weights[torch.tensor([*pair.prompt, *side[:-1]])].sum() for side in (pair.chosen, pair.rejected)
        )
        assert found.rows[row].item() == pytest.approx(torch.log(1 + torch.exp(rejected - chosen)).item(), rel=1e-5)
        assert found.measures["rewards/accuracies"][row] == (chosen > rejected)
    assert Reward().units(batch).tolist() == [1] * 4
    assert Reward().losses(model, batch.without_targets(2)).rows[2:].tolist() == [0, 0]


def test_it_learns_what_is_chosen_and_hugging_face_gives_the_same_scores(folder, tmp_path):
    course = {}
    for name, ranks, changes in (("one", 1, {"evaluate__every": 12}), ("two", 2, {"parallel__zero_stage": 3})):
        assert run_ranks(pretrain, configure(folder, tmp_path / name, **changes), ranks) == [0] * ranks
        course[name] = [row["train/loss"] for row in read_metrics(tmp_path / name)]
    assert course["one"] == pytest.approx(course["two"], rel=1e-5)
    last = read_metrics(tmp_path / "one")[-1]
    assert last["rewards/accuracies"] > 0.8
    assert "rewards/accuracies" in (tmp_path / "one" / "summary.txt").read_text()
    export(tmp_path / "one", tmp_path / "out")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    assert theirs.config.num_labels == 1
    tokenizer = load_tokenizer(tmp_path / "out")
    with torch.no_grad():
        scores = [
            theirs(torch.tensor([tokenizer.encode(f"tree and {number}?{answer}")])).logits.item()
            for number in range(10)
            for answer in (" the root stone", " red root water")
        ]
    assert sum(first > second for first, second in zip(scores[::2], scores[1::2], strict=True)) >= 9


def test_settings_that_cut_or_mix_pairs_are_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"data.packing=whole with objective=reward"):
        check_pretrain(configure(folder, tmp_path / "run", data__packing="whole"), 1)
    with pytest.raises(ConfigError, match="pairs of answers aren't cut"):
        check_pretrain(configure(folder, tmp_path / "run", data__long_documents="cut"), 1)
    with pytest.raises(ConfigError, match=r"set model.path"):
        check_pretrain(configure(folder, tmp_path / "run", model__path=None, model__init_from=str(folder / "hf")), 1)
