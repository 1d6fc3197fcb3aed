"""What a folder is being prepared from, where several processes begin at the same moment."""

import pytest

from trainer.data.text import plan
from trainer.data.text.plan import LAYOUT, PARTIAL, PreparationPlan, read_progress, write_plan
from trainer.errors import ConfigError
from trainer.machine.durable import write_json

PLAN = PreparationPlan({"seed": 0}, [])


def test_what_another_element_writes_meanwhile_is_its_own(tmp_path, monkeypatch):
    """It may write plan.json and more between one's look for plan.json and one's look at what else is there."""
    (tmp_path / PARTIAL).mkdir()
    read_json, looks = plan.read_json, []

    def first_look(path, **limits):
        looks.append(path)
        if len(looks) == 1:
            write_plan(tmp_path, PLAN, finished=False)
            write_json(tmp_path / PARTIAL / LAYOUT, {})
            raise FileNotFoundError
        return read_json(path, **limits)

    monkeypatch.setattr(plan, "read_json", first_look)
    assert read_progress(tmp_path, PLAN) == "begun"
    assert len(looks) == 2


def test_what_lies_there_without_a_plan_is_refused(tmp_path):
    (tmp_path / PARTIAL).mkdir()
    assert read_progress(tmp_path, PLAN) == "new"
    write_json(tmp_path / PARTIAL / LAYOUT, {})
    with pytest.raises(ConfigError, match=r"layout.json wasn't made by this prepare"):
        read_progress(tmp_path, PLAN)
