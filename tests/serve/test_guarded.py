"""A server with moderation and drift: what is refused and cut, what is counted, and what the dashboard shows of it.

The dashboard's queries are evaluated by Prometheus itself, in full runs where it is installed (Debian: apt-get install
prometheus).
"""

import json
import math
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.hf_folder import make_folder
from tests.serve.running import running
from trainer.config import Checkpoint, Run
from trainer.evaluate.sampling import Sampling
from trainer.machine.energy import open_rapl
from trainer.machine.host import free_port
from trainer.run.speaker import open_speaker

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "banyan-serve.json").read_text())
PROMPT = "the old tree by the river grows many trunks"
TOKENS = 40


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The server, and what its model greedily goes on with after PROMPT, of which some letters are a listed word."""
    folder = tmp_path_factory.mktemp("guarded")
    make_folder(folder / "model", max_position_embeddings=1024)
    speaker = open_speaker(Run(), Checkpoint(), str(folder / "model"))
    answer = "".join(speaker.continue_prompt(PROMPT, Sampling(max_tokens=TOKENS, temperature=0)))
    words = re.findall(r"(?<!\w)\w{2,}(?!\w)", answer)
    assert len(words) > 2, answer
    (folder / "words.txt").write_text(f"forbidden fruit\n{words[-1].upper()}\n", encoding="utf-8")
    keys = ["serve.engine=torch", f"serve.moderation=[{folder / 'words.txt'}]", "serve.drift=true"]
    with running(folder / "model", *keys, log=folder / "log") as server:
        yield server, answer, answer[: re.search(rf"(?<!\w){words[-1]}(?!\w)", answer, re.IGNORECASE).start()]


def ask(server, path, **content):
    request = urllib.request.Request(
        f"{server.address}{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def go_on(server, **more):
    return ask(server, "/v1/completions", prompt=PROMPT, max_tokens=TOKENS, temperature=0, **more)


def test_a_prompt_with_a_listed_word_is_refused(served):
    status, text = ask(served[0], "/v1/completions", prompt="Eat the FORBIDDEN fruit!", max_tokens=4)
    error = json.loads(text)["error"]
    assert (status, error["code"], error["type"]) == (400, "content_filter", "invalid_request_error")
    assert "fruit" not in error["message"]
    messages = [{"role": "user", "content": "hello"}, {"role": "user", "content": "forbidden fruit"}]
    assert ask(served[0], "/v1/chat/completions", messages=messages)[0] == 400


def test_an_answer_is_cut_before_a_listed_word_streamed_or_not(served):
    server, answer, before = served
    assert before != answer
    status, text = go_on(server)
    choice = json.loads(text)["choices"][0]
    assert (status, choice["text"], choice["finish_reason"]) == (200, before, "content_filter")
    status, text = go_on(server, stream=True)
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == before
    assert events[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert answer[len(before) :].split()[0] not in text


def test_log_probabilities_would_tell_what_was_cut_and_are_refused(served):
    status, text = go_on(served[0], logprobs=1)
    assert status == 400
    assert "logprobs" in json.loads(text)["error"]["message"]


def samples(scrape):
    """(name, labels, value) of every sample."""
    lines = (re.fullmatch(r"([\w:]+)(?:\{(.*)\})? (\S+)", line) for line in scrape.splitlines() if line[:1] != "#")
    return [(m[1], dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', m[2] or "")), float(m[3])) for m in lines if m]


def test_drift_counts_bits_per_byte_by_language_and_keeps_no_text(served):
    server = served[0]
    german = "Der alte Baum am Fluss wächst mit vielen Stämmen in den Garten."
    ask(server, "/v1/completions", prompt=german, max_tokens=1)
    ask(server, "/v1/completions", prompt="hm", max_tokens=1)
    end = time.monotonic() + 60
    while 'banyan:prompt_bits_per_byte_count{language="de"' not in server.scrape():
        assert time.monotonic() < end
        time.sleep(0.2)
    found = [each for each in samples(server.scrape()) if each[0].startswith("banyan:prompt")]
    sums = {labels["language"]: value for name, labels, value in found if name == "banyan:prompt_bits_per_byte_sum"}
    speaker = open_speaker(Run(), Checkpoint(), str(Path(server.log).parent / "model"))
    import torch

    ids = torch.tensor([speaker.prompt_ids(german)])
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(speaker.model(ids)[0, :-1].float(), ids[0, 1:], reduction="sum")
    assert sums["de"] == pytest.approx(float(losses) / math.log(2) / len(german.encode()), rel=1e-4)
    assert "en" in sums
    assert "Baum" not in server.scrape()
    short = [v for n, labels, v in found if n == "banyan:prompts_not_measured_total" and labels["reason"] == "short"]
    assert short == [1.0]


QUERIES = [
    pytest.param(target["expr"], id=f"{panel['id']}{target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
    if open_rapl() is not None or "energy_joules" not in target["expr"]  # which tests/serve/test_energy_counter.py has
]


@pytest.mark.parametrize("query", QUERIES)
def test_the_scrape_has_what_a_panel_asks_for(served, query):
    selectors = re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", query)
    grouped = [name.strip() for names in re.findall(r"by \(([^)]*)\)", query) for name in names.split(",")]
    rest = re.sub(r"[a-zA-Z_:][\w:]*\{[^}]*\}(\[\$__rate_interval\])?|by \([^)]*\)|[\d.]+", "", query)
    assert set(re.findall(r"\w+", rest)) <= {"sum", "rate", "histogram_quantile"}
    assert len(selectors) == 1
    name, matchers = selectors[0]
    labels = {part.partition("=")[0].strip() for part in matchers.split(",")} - {"job"}  # which Prometheus adds
    found = [has for sample, has, _ in samples(served[0].scrape()) if sample == name]
    assert found, name
    assert labels | set(grouped) <= found[0].keys()


def test_the_dashboard_is_whole():
    assert [panel["id"] for panel in DASHBOARD["panels"]] == list(range(1, len(DASHBOARD["panels"]) + 1))
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]}
    assert len(places) == len(DASHBOARD["panels"])
    assert {v["name"] for v in DASHBOARD["templating"]["list"]} == {"datasource", "model"}
    assert all(panel["description"].endswith(".") for panel in DASHBOARD["panels"])


@pytest.mark.full
def test_prometheus_evaluates_every_panel(served, tmp_path):
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no Prometheus here: apt-get install prometheus")
    server, port = served[0], free_port()
    settings = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    settings["global"]["scrape_interval"] = "1s"
    settings["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{server.port}"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    command = [program, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    process = subprocess.Popen(
        [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def value(query):
        words = query.replace("$__rate_interval", "1m").replace("$model", ".*")
        address = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': words})}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                return [float(each["value"][1]) for each in json.load(answer)["data"]["result"]]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        except OSError:
            return []

    try:
        end = time.monotonic() + 90
        waiting = [param.values[0] for param in QUERIES]
        while waiting:
            assert time.monotonic() < end, waiting
            go_on(server)
            waiting = [query for query in waiting if not any(math.isfinite(v) for v in value(query))]
            time.sleep(0.5)
    finally:
        process.terminate()
        process.wait(20)
