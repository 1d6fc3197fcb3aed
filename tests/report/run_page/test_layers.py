"""layers.jsonl as heat maps: every line while there are few, and no extreme lost where there are many."""

import json
import math

import pytest

from trainer.errors import InputError
from trainer.report.run_page.journal import read_layers
from trainer.report.run_page.layers import MOST_COLUMNS, LayerMaps

BLOCKS = ["0", "1"]


def line_of(step, **more):
    return {
        "step": step,
        "layers": ["embed_tokens", *BLOCKS],
        "weight_norm": [10.0, 20.0, 40.0],
        "update_norm": [0.1, 0.2, 0.4 if step != 777 else 40.0],
        "blocks": BLOCKS,
        "attention_entropy": [2.0, 0.01 if step == 778 else 1.5],
        "expert_load": [[0.5, 0.25, 0.25, 0.0], [0.25] * 4],
        "logit_max": 5.0 + step,
        **more,
    }


def test_a_statistic_is_a_map_by_layer_or_block():
    maps = LayerMaps()
    maps.add(line_of(10))
    maps.add(line_of(20, weight_norm=[10.0, None, 40.0]))
    found = {each.statistic.title: each for each in maps.found()}
    weights = found["Norm of weights"]
    assert (weights.labels, weights.first, weights.last) == (["embed_tokens", "0", "1"], [10, 20], [10, 20])
    assert weights.greatest[0].tolist() == [10.0, 20.0, 40.0]
    assert math.isnan(weights.greatest[1][1])
    assert found["Updates relative to weights"].greatest[0] == pytest.approx([0.01] * 3)
    assert found["Busiest expert"].greatest[0].tolist() == [2.0, 1.0]
    assert found["Idlest expert"].least[0].tolist() == [0.0, 1.0]
    assert found["Greatest logit"].greatest[1].tolist() == [25.0]
    assert "Norm of gradients" not in found


@pytest.mark.parametrize("lines", [MOST_COLUMNS, MOST_COLUMNS + 1, 1000, 4567])
def test_of_many_lines_each_column_has_the_least_and_the_greatest(lines):
    maps = LayerMaps()
    for step in range(1, lines + 1):
        maps.add(line_of(step))
    found = {each.statistic.title: each for each in maps.found()}
    updates = found["Norm of updates"]
    assert MOST_COLUMNS / 2 <= len(updates.first) <= MOST_COLUMNS
    assert updates.first[0] == 1
    assert updates.last[-1] == lines
    assert all(last + 1 == first for last, first in zip(updates.last, updates.first[1:], strict=False))
    whole = zip(updates.first[:-1], updates.last[:-1], strict=True)
    assert {last + 1 - first for first, last in whole} == {updates.width}
    if lines > 778:
        column = next(number for number, last in enumerate(updates.last) if last >= 777)
        assert updates.greatest[column][2] == 40.0
        assert updates.least[column][2] == 0.4
        assert sum(values[2] == 40.0 for values in updates.greatest) == 1
        entropy = found["Entropy of attention"]
        assert min(values[1] for values in entropy.least) == 0.01


def test_lines_of_others_are_no_harm(tmp_path):
    hostile = (
        *({"weight_norm": 3}, {"weight_norm": ["x", [], 1e999]}, {"layers": [1, 2, 3]}, {"layers": ["one"]}),
        *(
            {"expert_load": [[], ["x"]]},
            {"logit_max": "x"},
            {"weight_norm": [10**400, 1, 1]},
            {"weight_norm": [True] * 3},
        ),
    )
    text = "".join(json.dumps(line_of(step + 1, **each)) + "\n" for step, each in enumerate(hostile))
    (tmp_path / "layers.jsonl").write_text(text + '{"step": 9, "lay')
    maps = read_layers(tmp_path)
    assert maps.lines == len(hostile)
    weights = maps.found()[0]
    assert weights.statistic.title == "Norm of weights"
    assert weights.first == [5, 6, 7]
    assert math.isnan(weights.greatest[2][0])
    (tmp_path / "layers.jsonl").write_text("[]\n")
    with pytest.raises(InputError, match="line 1: not a JSON row"):
        read_layers(tmp_path)
