"""A real run, with a mixture, validation sets, tasks and a bad stretch of data: what it logs is what dashboards show,
and its spikes lead to their documents.
"""

import dataclasses
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import wandb
import yaml

from launch.compose import compose
from launch.groups import SHIPPED, choices
from tests.corpus import make_dataset, make_tokenizer, write_texts
from tests.run_ranks import pretrain, run_ranks, small_config
from tests.track import wandb_server
from trainer.config import TrainingSet, ValidationSet
from trainer.run.provenance import print_step
from trainer.track.sinks.journal import SAMPLES, read_metrics, read_rows
from trainer.track.sinks.wandb_run import SPIKE_TABLE
from trainer.track.spike_record import cut_spikes, read_spikes
from trainer.verbs.sync import main as sync

BAD_STEP = 71  # the first on other data
ON_A_GPU = {"perf/mfu"}  # a CPU's peak isn't known


@dataclass(frozen=True)
class Watched:
    run_dir: Path
    rows: list[dict]


def write_tasks(folder):
    folder.mkdir()
    words = ("red", "rain", "water", "root")
    asked = [{"begin": f"the {word}", "ends": ["tree", "stone"], "right": 0, "end": "tree"} for word in words]
    (folder / "words.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    (folder / "chosen.yaml").write_text(
        'kind: choice\ndata: words.jsonl\nprompt: "{{begin}}"\nchoices: ends\ntarget: right\nmetrics: [acc, acc_norm]\n'
    )
    (folder / "written.yaml").write_text(
        'kind: generate\ndata: words.jsonl\nprompt: "{{begin}}"\ntarget: end\nuntil: [stone]\nmax_tokens: 5\n'
        "metrics: [exact_match]\n"
    )
    return folder


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A run whose model has learnt its words and learns no more; from step 71 on, on two ranks, a set is noise."""
    folder = tmp_path_factory.mktemp("watched")
    tokenizer = make_tokenizer()
    for name in ("web", "code", "validation"):
        make_dataset(folder / name, tokenizer=tokenizer, documents=40, seed=len(name))
    draw = random.Random(1)
    noise = ["".join(draw.choices("zqxjkv#@%0123456789", k=300)) for _ in range(40)]
    make_dataset(folder / "noise", tokenizer=tokenizer, texts=noise)
    base = small_config(folder / "web", folder / "base", train__steps=40, train__batch_size=16, optimizer__lr=1e-2)
    assert run_ranks(pretrain, base, 1) == [0]
    config = small_config(
        None,
        folder / "run",
        model__init_from=str(folder / "base"),
        optimizer__lr=0.0,
        train__steps=BAD_STEP + 2,
        train__stop_at=BAD_STEP - 1,
        checkpoint__every=25,
        evaluate__every=35,
        evaluate__rows=8,
        evaluate__prompt="the tree",
        evaluate__prompt_tokens=4,
        evaluate__tasks=["chosen", "written"],
        evaluate__tasks_every=35,
        evaluate__task_dir=str(write_tasks(folder / "tasks")),
        track__spike_documents=6,
        run__allow_change=True,
    )
    config.data.path = None
    config.data.train = {name: TrainingSet(str(folder / name), 1.0) for name in ("web", "code")}
    config.data.validation = {
        name: ValidationSet(str(folder / "validation")) for name in ("validation", "en", "web_zh")
    }
    assert run_ranks(pretrain, config, 1) == [85]
    config.train.stop_at = None
    config.data.train["code"].path = str(folder / "noise")
    assert run_ranks(pretrain, config, 2) == [0, 0]
    return Watched(folder / "run", read_metrics(folder / "run"))


def panels_of(choice):
    spec = compose("dashboard", [f"dashboard={choice}"]).dashboard
    return {f"{name}/{key}": panel for name, part in spec.sections.items() for key, panel in part.panels.items()}


@pytest.mark.parametrize("choice", choices("dashboard", [SHIPPED]))
def test_each_panel_shows_what_a_real_run_logs(watched, choice):
    import torch

    logged = {name for row in watched.rows for name in row} | (set() if torch.cuda.is_available() else ON_A_GPU)
    media = {f"samples/{row['name']}" for row in read_rows(watched.run_dir / SAMPLES)}
    media |= {SPIKE_TABLE} if read_spikes(watched.run_dir) else set()
    stored = yaml.safe_load((watched.run_dir / "config.yaml").read_text())
    for place, panel in panels_of(choice).items():
        assert set(panel.metrics) <= logged, place
        assert panel.regex is None or any(re.search(panel.regex, name) for name in logged), place
        assert set(panel.media) - {"sweep/trials"} <= media, place  # which tests/launch/sweep sees a sweep log
        for key in panel.config:
            value = stored
            for part in key.split("."):
                value = value[part]


def test_a_panel_of_what_no_run_logs_would_be_seen(watched):
    logged = {name for row in watched.rows for name in row}
    assert "train/loss_of_words" not in logged
    assert not any(re.search("^eval/[^/]+/loss_of_words$", name) for name in logged)
    by_language = panels_of("evaluation")["evaluation/bits_by_language"].regex
    assert {name for name in logged if re.search(by_language, name)} == {
        "eval/en/bits_per_byte",
        "eval/web_zh/bits_per_byte",
    }


def test_the_bad_stretch_is_a_spike_with_its_documents_and_its_command(watched, capsys):
    spiked = [row["step"] for row in watched.rows if row.get("health/spike")]
    assert spiked[0] == BAD_STEP
    assert all("health/spike" in row for row in watched.rows if "train/loss" in row)
    (spike, *_) = found = read_spikes(watched.run_dir)
    assert [each.step for each in found] == spiked
    assert spike.command == f"banyan data at {watched.run_dir} step={BAD_STEP}"
    assert len(spike.documents) == 6
    names = [document.dataset for document in spike.documents]
    assert names == sorted(names)  # code's rows are worse than web's, whichever rank had them
    assert len({document.position for document in spike.documents if document.dataset == "code"}) > 2
    losses = [document.row_loss for document in spike.documents]
    assert losses == sorted(losses, reverse=True)
    row = next(row for row in watched.rows if row["step"] == BAD_STEP and "train/loss" in row)
    assert row["train/web/loss"] < row["train/loss"] < losses[0]
    assert print_step(watched.run_dir, BAD_STEP) == 0
    shown = capsys.readouterr().out
    for document in spike.documents:
        part = f"{document.source}, record {document.record}: tokens {document.first:,} to {document.last:,}"
        assert f"position {document.position:,}: {document.dataset}" in shown
        assert part in shown


def test_nothing_of_a_text_is_in_the_record(watched):
    text = (watched.run_dir / "spikes.jsonl").read_text()
    assert not any(word in text for word in ("zq", "the tree", *write_texts(2)))


def test_a_resume_cuts_spikes_as_it_cuts_metrics(watched, tmp_path):
    content = (watched.run_dir / "spikes.jsonl").read_bytes()
    (tmp_path / "spikes.jsonl").write_bytes(content + b'{"step": 9')
    found = read_spikes(tmp_path)
    assert found == read_spikes(watched.run_dir)
    cut_spikes(tmp_path, BAD_STEP)
    assert read_spikes(tmp_path) == found[:1]
    cut_spikes(tmp_path, BAD_STEP - 1)
    assert (tmp_path / "spikes.jsonl").read_bytes() == b""


def test_wandb_gets_the_documents_as_a_table(watched, monkeypatch, tmp_path):
    with wandb_server.own_wandb(monkeypatch, tmp_path), wandb_server.reachable_server(monkeypatch) as server:
        assert sync([str(watched.run_dir)]) == 0
        run = server.runs[(watched.run_dir / "wandb_id").read_text().strip()]
        shown = [row for row in run.history if SPIKE_TABLE in row]
        assert [row["step"] for row in shown] == [spike.step for spike in read_spikes(watched.run_dir)]
        assert shown[0][SPIKE_TABLE]["_type"] == "table-file"
        tables = [json.loads(content) for content in server.tables()]
        wandb.teardown()
        assert sync([str(watched.run_dir)]) == 0  # nothing is sent twice
        assert len([row for row in run.history if SPIKE_TABLE in row]) == len(shown)
    spike = read_spikes(watched.run_dir)[0]
    columns, rows = spike.table()
    assert {"columns": columns, "rows": rows} in [{"columns": each["columns"], "rows": each["data"]} for each in tables]
    assert dataclasses.asdict(spike.documents[0])["source"] in rows[0]
