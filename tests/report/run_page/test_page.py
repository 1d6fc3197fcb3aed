"""The page needs nothing else, runs no script but its own, and nothing of others is markup."""

import json
import re

import pytest

from tests.report.run_page.page_of import CHROMIUM, Elements, drawn_after_ms, open_in_chromium
from trainer.data.tokens.history import Rewind
from trainer.report.frame import script_hash
from trainer.report.run_page.journal import RunSeries
from trainer.report.run_page.layers import LayerMaps
from trainer.report.run_page.page import comparison_as_html, run_as_html
from trainer.report.run_page.record import (
    HangRecord,
    HealthRecord,
    OperatorTable,
    RunRecord,
    SpikeDocument,
    SpikeStory,
)
from trainer.track.alerts import Alert
from trainer.track.health_record import HealthNote
from trainer.track.sinks.starts import Life, RunEnd, RunStart
from trainer.track.spike_record import SpikeRecord, StepDocument

HOSTILE = "</script><script>alert(1)</script><img src=https://x.example/p onerror=alert(2)> \u202eevil\x1b[31m &lt;"


def make_run(name="calm", rows=300, text="text"):
    series = RunSeries()
    for step in range(1, rows + 1):
        row = {"step": step, "tokens": 128 * step, "time": 1e9 + step, "train/loss": 3 + 1 / step, "train/lr": 1e-3}
        series.add(row | ({"eval/a/loss": 3.0, f"eval/{text}/acc": 0.5, text: 1.0} if step % 50 == 0 else {}))
    lives = (
        Life(RunStart(time=1e9, host=text, ranks=2, layout={"zero_stage": 1, "precision": text}), RunEnd(reason=text)),
        Life(RunStart(time=1e9 + 100, host=text, step=90, logged=100, ranks=1, layout={"zero_stage": 0})),
    )
    document, worst = SpikeDocument(text, 3, 40, 5.5, text), StepDocument(7, text, text, 3, 0, 9, 40, 9.25)
    command = f"banyan data at {text} step="
    spike = SpikeRecord(50, 6400, 1e9, command + "50", {"train/loss": 9.0}, {"train/loss": 4.0}, "", (worst,))
    rewound = SpikeRecord(60, 7680, 1e9, command + "60", {}, {}, "rewound", (worst,), text)
    layers = LayerMaps()
    for step in (100, 200, 300):
        norms = {"layers": [text, "0"], "weight_norm": [1.0, step], "update_norm": [0.5, None]}
        layers.add({"step": step, "logit_max": 8.0, **norms})
    return RunRecord(
        name=name,
        run_dir=f"runs/{text}",
        state="training",
        reason=text,
        series=series,
        lives=lives,
        reasons=(text, ""),
        samples={text: [(10, text)]},
        samples_total=1,
        spikes=(SpikeStory(spike, (document,)), SpikeStory(rewound)),
        all_spikes=(spike, rewound),
        layers=layers,
        health=HealthRecord(
            notes=(HealthNote(1e9, "ranks and data", f"step 30: rank 2 ({text}) is slow"),),
            skipped=(70, 80),
            rewinds=(Rewind(60, 50, 640),),
            hang=HangRecord(1e9, f"no progress for 600 s: {text}", ((1, f"in all_reduce number 41 {text}"),)),
            alerts=(Alert(1e9, text, text, 5),),
            problems=(text,),
        ),
        energy_rows=(("Energy", "1 kWh"), (text, text)),
        config={"run.name": text, "train.steps": rows},
        environment={"host": text, "packages": {text: text}},
        facts={"parameters": 10**6, "device": text, "data": [{"name": text, "folder": text}]},
        flops_per_token=6e6,
        profile=(OperatorTable(0, "1-2", "CPU", ({"name": text, "calls": 1} | dict.fromkeys(TIMES, 1.0),)),),
        profile_files=(text,),
        command=f"banyan pretrain run.name={text}",
    )


TIMES = ("self_cpu_us", "cpu_us", "self_device_us")


@pytest.mark.parametrize("several", [False, True])
def test_nothing_of_others_is_markup_and_only_its_own_script_may_run(several):
    run = make_run(HOSTILE, text=HOSTILE)
    html = comparison_as_html([run, make_run()], title=HOSTILE) if several else run_as_html(run, make_run())
    page = Elements(html)
    assert [tag for tag, _ in page.found].count("script") == 2
    assert not [tag for tag, _ in page.found if tag in ("img", "b", "link", "iframe") and several]
    (policy,) = [attributes["content"] for _, attributes in page.found if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert re.search(r"script-src '([^']+)'", policy)[1] == script_hash(page.scripts[1])
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    assert not [attributes for _, attributes in page.found if "src" in attributes or "href" in attributes]
    assert "\u202e" not in html
    assert "\x1b" not in html
    assert "evil" in page.text


def test_curves_of_a_run_are_in_charts_by_what_they_are():
    page = Elements(run_as_html(make_run()))
    titles = [chart["title"] for chart in page.data["charts"]]
    assert titles[:2] == ["Loss", "Learning rate"]
    assert [line["label"] for line in page.data["charts"][0]["lines"]] == ["train", "a"]
    (run,) = page.data["runs"]
    assert run["series"]["train/loss"]["v"][0] == 4.0
    assert run["marks"][0]["step"] == 90
    assert run["marks"][0]["time"] == 100
    assert run["spikes"] == [[50, 9.0]]
    for said in ("10 ", "changed", "steps lost", "banyan data at", "not measured", "energy", "1 restarts"):
        assert said.lower() in page.text.lower(), said


def test_health_layers_and_energy_are_on_the_page():
    page = Elements(run_as_html(make_run()))
    (run,) = page.data["runs"]
    assert [step for step, _ in run["bad"]] == [60, 70, 80]
    assert [each["title"] for each in page.data["maps"]] == [
        *("Norm of weights", "Norm of updates", "Updates relative to weights", "Greatest logit")
    ]
    weights, updates = page.data["maps"][:2]
    assert (weights["labels"], weights["first"], weights["last"]) == (["text", "0"], [100, 200, 300], [100, 200, 300])
    assert weights["cells"] == [[1.0, 1.0, 1.0], [100.0, 200.0, 300.0]]
    assert updates["cells"] == [[0.5, 0.5, 0.5], [None, None, None]]
    for said in (
        *("2 skipped", "at step 70, 80", "rewound", "rank 2 (text) is slow", "no progress for 600 s", "number 41"),
        *("Alerts that were sent", "The limit was loss 4", "The step was rewound", "1 kWh", "9.25"),
    ):
        assert said in page.text, said
    calm = Elements(run_as_html(RunRecord("new", "runs/new", "starting", "", RunSeries())))
    assert "Nothing was noted" in calm.text
    assert calm.data["maps"] == []


def test_several_runs_have_a_line_each_and_their_differing_keys():
    one, two = make_run("one", rows=100), make_run("two", rows=200)
    page = Elements(comparison_as_html([one, two], title="one · two"))
    loss = next(chart for chart in page.data["charts"] if chart["title"] == "train/loss")
    assert [line["label"] for line in loss["lines"]] == ["one", "two"]
    differing = page.text.split("How configurations differ")[1].split("All ")[0]
    assert "train.steps" in differing
    assert "100" in differing
    assert "run.name" not in differing


def test_a_run_without_rows_has_a_page():
    page = Elements(run_as_html(RunRecord("new", "runs/new", "starting", "", RunSeries())))
    assert "No rows in metrics.jsonl yet" in page.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_of_many_rows_is_drawn_in_a_second_and_breaks_no_rule_of_its_own(tmp_path):
    """Thinned, two million rows are as many points as these."""
    path = tmp_path / "report.html"
    path.write_text(run_as_html(make_run(HOSTILE, rows=40_000, text=HOSTILE)))
    dom, complaints = open_in_chromium(path, tmp_path, query="#by=time&smoothing=0.9")
    assert complaints == []
    assert drawn_after_ms(dom) < 1000
    assert 'data-axis="time" aria-pressed="true"' in dom
    assert 'id="smoothed" class="soft">0.90<' in dom
    assert json.dumps(HOSTILE)[1:20] not in dom.split("</h1>")[0]
