"""A model that a test has trained, its export, and tasks of both kinds, once for all tests of a process."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.corpus import make_dataset, make_tokenizer
from tests.evaluate.olmes_subset import CLOZE, MORE, made_requests, write_own_task, write_requests, write_their_task
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import Export

DOCUMENTS = 8


@dataclass(frozen=True)
class Judged:
    """`run` was trained on `data`; `export` is its Hugging Face folder; `tasks` has own_NAME and their_NAME."""

    data: Path
    run: Path
    export: Path
    tasks: Path


@pytest.fixture(scope="session")
def judged(tmp_path_factory):
    from trainer.verbs import export

    folder = tmp_path_factory.mktemp("judged")
    tokenizer = make_tokenizer(400)
    make_dataset(folder / "data", documents=60, tokenizer=tokenizer)
    config = small_config(
        folder / "data", folder / "run", train__steps=25, checkpoint__every=20, data__sequence_length=96
    )
    assert run_ranks(pretrain, config, 1) == [0]
    out = Export()
    out.run.dir, out.export.output = str(folder / "run"), str(folder / "export")
    assert export.main(out) == 0
    for task in (*CLOZE, *MORE):
        path = write_requests(folder / "requests" / task / "requests.jsonl.gz", made_requests(task, DOCUMENTS))
        write_own_task(folder / "tasks", task, path)
        write_their_task(folder / "tasks", task, path)
    return Judged(folder / "data", folder / "run", folder / "export", folder / "tasks")
