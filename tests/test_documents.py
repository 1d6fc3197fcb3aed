"""Programs that the documents show do what they say."""

import re
from pathlib import Path

from tests.ranks import pretrain, run_ranks, small_config
from tests.states import read_state
from trainer.engine.checkpoint import find_checkpoint

CHECKPOINTS = Path(__file__).parent.parent / "docs" / "CHECKPOINTS.md"


def test_the_reader_in_checkpoints_md_reads_every_tensor(corpus, tmp_path):
    shape = {"parallel__zero_stage": 3, "parallel__tensor": 2, "model__vocab_size": 303}
    assert run_ranks(pretrain, small_config(corpus, tmp_path / "run", train__steps=1, **shape), 4) == [0] * 4
    (program,) = re.findall(r"```python\n(.*?)```", CHECKPOINTS.read_text(), flags=re.DOTALL)
    names = {}
    exec(program, names)
    folder = find_checkpoint(tmp_path / "run", None)
    for (parameter, kind), tensor in read_state(tmp_path / "run").items():
        assert names["read"](folder, parameter, kind).equal(tensor)
