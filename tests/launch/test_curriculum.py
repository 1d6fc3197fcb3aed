"""Ramps and long-context stages as docs/DATA.md types them."""

import re
import shlex
from pathlib import Path

import pytest

from launch.compose import compose
from launch.overrides import Override
from trainer.config.ramps import Ramps, StepSize
from trainer.rules.pretrain import check_pretrain

PAGE = (Path(__file__).parents[2] / "docs" / "DATA.md").read_text()
CODE = "".join(re.findall(r"^```\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)).replace("\\\n", "")
COMMANDS = [
    line for line in CODE.splitlines() if (line.startswith("banyan pretrain") and "ramp" in line) or "rope" in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_would_start(line):
    arguments = [each for each in shlex.split(line)[2:] if "init_from" not in each and "extend_context" not in each]
    check_pretrain(compose("pretrain", arguments), 4)


def test_the_page_s_ramp_is_what_is_said_of_it():
    config = compose("pretrain", shlex.split(COMMANDS[0])[2:])
    ramps, rows = Ramps.of(config.train, config.data), 10**9 // 4096
    assert ramps.at(0) == StepSize(128, 512)
    assert ramps.at(rows + 128) == StepSize(128, 2048)
    assert ramps.at(2 * rows + 128) == StepSize(512, 2048)
    assert ramps.at(4 * rows + 512) == StepSize(512)
    assert len(COMMANDS) == 3


def test_round_numbers_within_mappings_are_whole():
    """As docs/DATA.md has them: from_tokens: 1e9."""
    sets = ["data.train.a.path=x", "data.train.b.path=x", "train.steps=1"]
    config = compose("pretrain", [*sets, "data.stages.w={from_tokens: 1e9, weights: {a: 1e1, b: 2.5}}"])
    assert config.data.stages["w"].from_tokens == 10**9
    assert config.data.stages["w"].weights == {"a": 10.0, "b": 2.5}
    config = compose(
        "pretrain", ["data.path=x", "train.steps=1", "train.batch_ramp={a: {until_tokens: 2e6, batch_size: 8}}"]
    )
    assert config.train.batch_ramp["a"].until_tokens == 2 * 10**6


def test_sizes_of_a_folder_bring_its_positions(tmp_path):
    from launch.model_sizes import sizes_from
    from tests.hugging_face import save_model

    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    save_model(tmp_path, "llama", rope_parameters=rope | {"rope_theta": 1e4})
    given = {each.name: each.value for each in sizes_from([Override("model.init_from", str(tmp_path))])}
    assert given["model.rope_scaling"] == "{rope_type:yarn,factor:4.0,original_max_position_embeddings:64}"
    config = compose("pretrain", [f"model.init_from={tmp_path}", "data.path=x", "train.steps=1"])
    assert config.model.rope_scaling == rope
    other = ["model.rope_scaling={type: linear, factor: 8}", "model.extend_context=true"]
    config = compose("pretrain", [f"model.init_from={tmp_path}", "data.path=x", "train.steps=1", *other])
    assert config.model.rope_scaling == {"type": "linear", "factor": 8}
