"""prepare, from text to shards: what it promises about content, interruption and bad input."""

import base64
import dataclasses
import errno
import functools
import os
import random
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.corpus import make_tokenizer, write_texts
from tests.data.tokens.published import sentencepiece, wordpiece
from tests.killed import PROGRAM, assert_same_after_kills, kill_after_files, large_files, start, write_program
from tests.prepared import configure, prepare, shard_files, write_folder, write_jsonl
from trainer.config import TokenizerSettings, TokenizerTrain
from trainer.data.tokens.manifest import SourceGroup, read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import END_OF_TEXT, load_tokenizer
from trainer.data.tokens.verify import verify
from trainer.errors import ConfigError, InputError, StorageError
from trainer.machine import durable
from trainer.verbs.prepare import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of 200 text files."""
    return write_folder(tmp_path_factory.mktemp("input") / "texts", 200)


@pytest.fixture(scope="module")
def output(folder, tmp_path_factory):
    """The folder, prepared."""
    return prepare(folder, tmp_path_factory.mktemp("output") / "out", validation_fraction=0.1)


def documents_of(dataset):
    """The texts of a dataset in the order of its shards."""
    manifest = read_manifest(dataset)
    tokenizer = load_tokenizer(manifest.tokenizer_file)
    return [
        tokenizer.decode(reader.read(span.start, span.stop - 1))
        for reader in open_shards(manifest)
        for span in reader.documents(0, reader.tokens)
    ]


def error_line(config, kind=(InputError, ConfigError)):
    """The one line that prepare refuses `config` with."""
    with pytest.raises(kind) as error:
        main(config)
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- content


def test_every_document_arrives_once_and_whole(folder, output):
    train, validation = documents_of(output / "train"), documents_of(output / "validation")
    assert sorted(train + validation) == sorted(path.read_text() for path in folder.iterdir())
    assert train != sorted(train)
    assert 5 < len(validation) < 40


def test_output_is_whole_and_tidy(output):
    manifest = read_manifest(output / "train")
    assert verify(manifest) == verify(read_manifest(output / "validation")) == []
    assert len(manifest.shards) > 3
    assert {path.name for path in output.iterdir()} == {"train", "validation", "plan.json"}
    assert not list(output.rglob("*.tmp"))
    assert (manifest.sources[0].licence, len(manifest.sources[0].files)) == (None, 200)


def test_documents_name_the_file_they_came_from(folder, output):
    manifest = read_manifest(output / "train")
    tokenizer = load_tokenizer(manifest.tokenizer_file)
    reader = open_shards(manifest)[0]
    for span in reader.documents(0, reader.tokens):
        text = (folder / manifest.source_name(span.source)).read_text()
        assert tokenizer.decode(reader.read(span.start, span.stop - 1)) == text
        assert span.bytes == len(text.encode())


def test_counts_add_up_from_file_to_shard(tmp_path):
    texts = write_texts(20)
    folder = write_folder(tmp_path / "in", 20)
    (folder / "empty.txt").write_text(" \n")
    (folder / "binary.txt").write_bytes(b"\x89PNG\0")
    (folder / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    records = [*texts[:3], "new", ""]
    write_jsonl(folder / "more.jsonl", records)
    with open(folder / "more.jsonl", "a") as file:
        file.write("no json\n{}\n")
    manifest = read_manifest(prepare(folder, tmp_path / "out") / "train")
    assert manifest.rejected == {"bad_json": 1, "duplicate": 3, "empty": 2, "no_text_field": 1, "undecodable": 2}
    assert manifest.documents == 21
    assert manifest.documents_read == 21 + sum(manifest.rejected.values()) == 23 + 7
    kept = read_manifest(prepare(folder, tmp_path / "kept", deduplicate=False) / "train")
    assert kept.documents == 24
    assert "duplicate" not in kept.rejected


def test_split_and_order_are_stable_under_reordering_of_inputs(tmp_path):
    texts = write_texts(300)
    first = write_jsonl(tmp_path / "a.jsonl", texts[:150])
    second = write_jsonl(tmp_path / "b.jsonl", texts[150:])
    forward = prepare([first, second], tmp_path / "forward", validation_fraction=0.1)
    backward = prepare([second, first], tmp_path / "backward", validation_fraction=0.1)
    mixed = texts[:]
    random.Random(1).shuffle(mixed)
    shuffled = prepare(write_jsonl(tmp_path / "c.jsonl", mixed), tmp_path / "shuffled", validation_fraction=0.1)
    for split in ("train", "validation"):
        assert documents_of(forward / split) == documents_of(backward / split) == documents_of(shuffled / split)


def test_without_shuffling_documents_keep_the_order_of_their_sources(tmp_path):
    texts = write_texts(40)
    path = write_jsonl(tmp_path / "texts.jsonl", texts)
    assert documents_of(prepare(path, tmp_path / "out", shuffle_documents=False) / "train") == texts


def test_another_seed_is_another_order_of_the_same_documents(folder, tmp_path, output):
    other = prepare(folder, tmp_path / "out", seed=1, validation_fraction=0.1)
    first, second = documents_of(output / "train"), documents_of(other / "train")
    assert first != second
    assert sorted(first) == sorted(second)
    assert sorted(documents_of(output / "validation")) == sorted(documents_of(other / "validation"))


def test_tar_of_raw_text_is_prepared(tmp_path, folder, output):
    with tarfile.open(tmp_path / "raw.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)
    packed = prepare(tmp_path / "raw.tar", tmp_path / "out", validation_fraction=0.1)
    assert documents_of(packed / "train") == documents_of(output / "train")


def test_end_of_text_spelt_out_in_a_text_stays_text(tmp_path):
    texts = [f"before {END_OF_TEXT} after", END_OF_TEXT, *write_texts(5)]
    out = prepare(write_jsonl(tmp_path / "texts.jsonl", texts), tmp_path / "out")
    assert sorted(documents_of(out / "train")) == sorted(texts)
    assert verify(read_manifest(out / "train")) == []


def test_a_loaded_tokenizer_is_used_as_it_is(folder, tmp_path, output):
    make_tokenizer(280).save(tmp_path / "mine")
    manifest = read_manifest(
        prepare(folder, tmp_path / "out", tokenizer=TokenizerSettings(path=str(tmp_path / "mine"))) / "train"
    )
    assert manifest.tokenizer_sha256 == make_tokenizer(280).sha256
    assert manifest.tokenizer_file.read_bytes() == (tmp_path / "mine" / "tokenizer.json").read_bytes()
    of_dataset = TokenizerSettings(path=str(output / "train"))
    again = prepare(folder, tmp_path / "again", tokenizer=of_dataset, validation_fraction=0.1)
    assert read_manifest(again / "train").fingerprint == read_manifest(output / "train").fingerprint


def test_processes_write_the_same_bytes_as_one(folder, output, tmp_path):
    several = prepare(folder, tmp_path / "out", workers=2, validation_fraction=0.1)
    assert shard_files(several) == shard_files(output)


# ---- what a tokenizer makes of it


def save(engine, folder):
    """A tokenizer of `tokenizers`, as a folder."""
    folder.mkdir()
    engine.save(str(folder / "tokenizer.json"))
    return TokenizerSettings(path=str(folder))


CHINESE = [f"床前明月光，疑是地上霜。{number}" for number in range(40)]


def test_a_tokenizer_that_cannot_say_most_of_the_text_is_refused_unless_that_is_allowed(tmp_path, capsys):
    path = write_jsonl(tmp_path / "zh.jsonl", CHINESE)
    theirs = save(wordpiece(write_texts(30)), tmp_path / "wordpiece")
    line = error_line(configure(path, tmp_path / "out", tokenizer=theirs), InputError)
    assert "wordpiece can't say this text" in line
    assert "data.tokenizer.allow_loss=true" in line
    assert "床前明月光" in line
    assert list((tmp_path / "out").iterdir()) == []
    prepare(path, tmp_path / "out", tokenizer=dataclasses.replace(theirs, allow_loss=True))
    assert "WARNING: 100.00% of the bytes tried" in capsys.readouterr().out


def test_a_tokenizer_that_loses_some_of_the_text_is_warned_of(tmp_path, capsys):
    texts = [text.replace(" ", "\n") for text in write_texts(30)]
    path = write_jsonl(tmp_path / "en.jsonl", texts)
    prepare(path, tmp_path / "out", tokenizer=save(wordpiece(texts), tmp_path / "wordpiece"))
    assert "% of the bytes tried don't come back from their ids" in capsys.readouterr().out
    prepare(path, tmp_path / "llama", tokenizer=save(sentencepiece(texts), tmp_path / "sentencepiece"))
    assert "come back" not in capsys.readouterr().out


def test_documents_of_which_no_token_is_left_are_counted_and_the_first_is_named(tmp_path, capsys):
    from tokenizers import Tokenizer as Engine
    from tokenizers import models, pre_tokenizers, trainers

    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["</s>"], show_progress=False)
    engine.train_from_iterator(write_texts(30), trainer)
    path = write_jsonl(tmp_path / "mixed.jsonl", [*write_texts(30), "中文", "日本"])
    out = prepare(path, tmp_path / "out", tokenizer=save(engine, tmp_path / "plain"), shuffle_documents=False)
    assert "of 2 documents of train no token is left" in capsys.readouterr().out
    assert read_manifest(out / "train").documents == 32


# ---- memory

MEASURE = """
import json, sys
from tests.prepared import configure
from trainer.verbs.prepare import main

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))) * 1024

if __name__ == "__main__":
    before = peak()
    settings = json.loads(sys.argv[3])
    main(configure([sys.argv[1]], sys.argv[2], shard_bytes=2**28, block_tokens=2**18, **settings))
    print(before, peak())
"""
BIG = {
    "words": lambda draw, size: " ".join(
        draw.choices(write_texts(1)[0].split() + [str(n) for n in range(3000)], k=size // 5)
    ),
    "unbroken": lambda draw, size: "".join(draw.choices("acgt", k=size)),
    "base64": lambda draw, size: base64.encodebytes(draw.randbytes(size * 3 // 4)).decode(),
    "chinese": lambda draw, size: "".join(
        draw.choices([chr(0x4E00 + n) for n in range(3000)] + ["，"] * 300, k=size // 3)
    ),
    "slow": lambda draw, size: "the tree grows \u088f " * (size // 17),
}


@pytest.mark.parametrize(
    ("kind", "megabytes"),
    [("words", 3), ("slow", 2), *(pytest.param(kind, 20, marks=pytest.mark.full) for kind in BIG)],
)
def test_memory_is_bounded_by_the_largest_document(kind, megabytes, tmp_path):
    text = BIG[kind](random.Random(1), megabytes * 10**6).encode()
    (tmp_path / "one.txt").write_bytes(text)
    (tmp_path / "measure.py").write_text(MEASURE)
    command = [sys.executable, tmp_path / "measure.py", tmp_path / "one.txt", tmp_path / "out", "{}"]
    result = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True)
    before, peak = map(int, result.stdout.splitlines()[-1].split())
    assert peak < 600e6 + 6 * len(text)
    if megabytes < 20:  # far below that: twelve documents, where it was 200
        assert peak - before < 150e6 + 12 * len(text)


PEAK = """
import json, sys
from tests.prepared import configure
from trainer.config import TokenizerSettings, TokenizerTrain
from trainer.data.text import collect, document_store, split
from trainer.verbs.prepare import main

if __name__ == "__main__":
    collect.LEAST_ITEM_BYTES, split.BUCKET_BYTES, document_store.READ_BYTES = 100_000, 200_000, 100_000
    tokenizer = TokenizerSettings(train=TokenizerTrain(vocab_size=300, sample_bytes=100_000))
    settings = {"shard_bytes": 100_000, "block_tokens": 2**15, "workers": 2, "tokenizer": tokenizer}
    main(configure([sys.argv[1]], sys.argv[2], **settings))
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(("few", "many"), [(5000, 60_000), pytest.param(10**5, 10**6, marks=pytest.mark.full)])
def test_memory_of_the_driver_does_not_grow_with_the_documents(few, many, tmp_path):
    """A table of them would take 181 bytes a document, at its peak. (A single item is done by the driver itself.)"""
    (tmp_path / "peak.py").write_text(PEAK)
    peaks = []
    for count in (few, many):
        path = tmp_path / f"{count}.jsonl"
        path.write_text("".join(f'{{"text": "document {number}"}}\n' for number in range(count)))
        command = [sys.executable, tmp_path / "peak.py", path, tmp_path / f"out-{count}"]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True)
        peaks.append(1024 * int(done.stdout.splitlines()[-1]))
    assert peaks[1] - peaks[0] < 60 * (many - few)


# ---- interruption


@pytest.mark.parametrize(
    ("kills", "workers"), [(2, 2), *(pytest.param(20, workers, marks=pytest.mark.full) for workers in (1, 2, 3))]
)
def test_killed_at_random_moments_prepare_continues_to_the_same_bytes(kills, workers, tmp_path):
    inputs = [str(write_jsonl(tmp_path / f"{n}.jsonl", write_texts(300, seed=n))) for n in range(4)]
    assert_same_after_kills(inputs, tmp_path, kills=kills, workers=workers)


@pytest.mark.parametrize(("elements", "kills"), [(2, 1), *(pytest.param(3, 15, marks=pytest.mark.full) for _ in "abc")])
def test_elements_of_an_array_that_are_killed_share_the_work_and_write_the_same_bytes(elements, kills, tmp_path):
    """Some that are killed come back, as requeued ones do; the last victim doesn't, and the others do its share."""
    inputs = [str(write_jsonl(tmp_path / f"{n}.jsonl", write_texts(300, seed=n))) for n in range(4)]
    inputs.append(str(large_files(tmp_path / "others")))
    shared = tmp_path / "shared"
    calm = prepare(list(map(Path, inputs)), tmp_path / "calm", validation_fraction=0.1)
    run = functools.partial(start, write_program(tmp_path), inputs, shared, workers=1, elements=elements)
    draw = random.Random()
    alive = {element: run(element=element) for element in range(elements)}
    for kill in range(kills):
        element = draw.choice(list(alive))
        victim = alive.pop(element)
        if not kill_after_files(victim, shared, draw.randint(1, 20)):
            assert victim.communicate()[0].endswith("\n0\n")
        if kill < kills - 1 or not alive:
            alive[element] = run(element=element)
    for process in alive.values():
        assert process.communicate(timeout=120)[0].endswith("\n0\n")
    assert shard_files(shared) == shard_files(calm)
    assert {path.name for path in shared.iterdir()} <= {"train", "validation", "plan.json"}


def test_a_refused_array_leaves_nothing_in_the_way_of_the_mend(tmp_path):
    inputs = [str(write_jsonl(tmp_path / f"{n}.jsonl", write_texts(200, seed=n))) for n in range(2)]
    inputs.append(str(write_jsonl(tmp_path / "z.jsonl", write_texts(5), field="content")))
    program = write_program(tmp_path)
    both = [start(program, inputs, tmp_path / "out", element=element, elements=2) for element in range(2)]
    for process in both:
        assert "z.jsonl: no record has a text in data.text_field" in process.communicate()[0].splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("stage", range(0, 60, 5))
def test_stopped_at_any_file_prepare_continues_to_the_same_bytes(stage, folder, output, tmp_path, monkeypatch):
    """Each durable write is a place to stop at: before it, or after it."""
    out, writes = tmp_path / "out", [0]
    replace = os.replace

    def failing(source, target):
        writes[0] += 1
        if writes[0] == stage + 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(durable.os, "replace", failing)
    config = configure(folder, out, validation_fraction=0.1)
    try:
        main(config)
    except KeyboardInterrupt:
        writes[0] = 1000
        assert main(config) == 0
    assert shard_files(out) == shard_files(output)


def test_finished_prepare_is_up_to_date_at_once(output, folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert main(configure(folder, output, validation_fraction=0.1)) == 0
    assert "up to date" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_other_settings_or_inputs_are_refused_on_a_prepared_folder(output, folder, tmp_path):
    before = shard_files(output)
    line = error_line(configure(folder, output, validation_fraction=0.2), ConfigError)
    assert "data.validation_fraction=0.1 then, 0.2 now" in line
    assert "choose another data.output" in line
    line = error_line(configure(write_folder(tmp_path / "x", 2), output, validation_fraction=0.1), ConfigError)
    assert "0000.txt" in line
    assert shard_files(output) == before


def test_changed_input_is_noticed(tmp_path):
    folder = write_folder(tmp_path / "in", 5)
    config = configure(folder, tmp_path / "out")
    main(config)
    (folder / "0003.txt").write_text((folder / "0003.txt").read_text()[::-1])
    assert "0003.txt" in error_line(config, ConfigError)


def test_folders_that_prepare_did_not_make_are_left_alone(folder, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "precious").write_text("mine")
    assert f"data.output={tmp_path}" in error_line(configure(folder, tmp_path), ConfigError)
    assert (tmp_path / "train" / "precious").read_text() == "mine"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    prepare(folder, tmp_path / "out")
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_a_second_prepare_in_the_same_folder_is_refused(folder, tmp_path):
    from trainer.data.text.plan import exclusive

    with exclusive(tmp_path):
        assert "another prepare" in error_line(configure(folder, tmp_path), ConfigError)


def test_a_full_disk_is_one_line_and_prepare_continues(folder, output, tmp_path, monkeypatch):
    config, calls = configure(folder, tmp_path / "out", validation_fraction=0.1), [0]

    def full(descriptor):
        calls[0] += 1
        if calls[0] > 20:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", full)
        line = error_line(config, StorageError)
    assert "the disk is full" in line
    assert str(tmp_path / "out") in line
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert main(config) == 0
    assert shard_files(tmp_path / "out") == shard_files(output)


def test_a_file_that_grows_no_further_is_one_line_and_prepare_continues(folder, output, tmp_path):
    """Here a limit of the process: what is written up to it is never taken for a whole file."""
    (tmp_path / "run.py").write_text(PROGRAM.replace("25_000, 70_000, 70_000", "10**9, 10**9, 10**9"))
    start_it = f"ulimit -f 20; exec {sys.executable} {tmp_path / 'run.py'} '[\"{folder}\"]' {tmp_path / 'out'} 1"
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    done = subprocess.run(["bash", "-c", start_it], env=environment, capture_output=True, text=True)
    assert "StorageError" in done.stderr.splitlines()[-1]
    assert "the file is larger than the disk allows" in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert main(configure(folder, tmp_path / "out", validation_fraction=0.1)) == 0
    assert shard_files(tmp_path / "out") == shard_files(output)


# ---- bad input


def test_refused_prepare_leaves_nothing_in_the_way_of_the_mend(tmp_path):
    folder = write_folder(tmp_path / "in", 3)
    line = error_line(configure(folder, tmp_path / "out", validation_fraction=1e-9), InputError)
    assert "data.validation_fraction" in line
    assert "validation" in line
    assert list((tmp_path / "out").iterdir()) == []
    prepare(folder, tmp_path / "out", validation_fraction=0.0)


def test_nothing_accepted_is_refused_with_the_counts(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    (tmp_path / "in" / "b.txt").write_bytes(b"\xff")
    line = error_line(configure(tmp_path / "in", tmp_path / "out"), InputError)
    assert "1 empty" in line
    assert "1 undecodable" in line


def test_a_binary_file_that_is_named_is_refused(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n\0")
    assert str(path) in error_line(configure(path, tmp_path / "out"), InputError)


def test_a_broken_source_is_named_through_worker_processes(folder, tmp_path):
    path = tmp_path / "broken.tar"
    path.write_bytes(b"\x99" * 2048)
    config = configure([folder, path], tmp_path / "out", workers=2)
    assert str(path) in error_line(config, InputError)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"input": []}, "data.input"),
        ({"output": None}, "data.output"),
        ({"input": ["gone"]}, "data.input=gone"),
        ({"shard_bytes": 0}, "data.shard_bytes"),
        ({"validation_fraction": -0.1}, "data.validation_fraction"),
        ({"validation_fraction": 0.9}, "data.validation_fraction"),
        ({"tokenizer": TokenizerSettings(train=TokenizerTrain(vocab_size=100))}, "data.tokenizer.train.vocab_size"),
        ({"tokenizer": TokenizerSettings(path="gone")}, "data.tokenizer.path"),
        ({"tokenizer": TokenizerSettings(end_of_text="<e>")}, "data.tokenizer.end_of_text"),
    ],
)
def test_bad_settings_are_refused_by_key_before_anything_is_written(change, part, folder, tmp_path):
    config = configure(folder, tmp_path / "out")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, **change))
    assert part in error_line(config)
    assert not (tmp_path / "out").exists()


def test_output_that_is_a_file_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file" in error_line(configure(folder, tmp_path / "file" / "out"), ConfigError)


# ---- what is told, and names


def test_every_reason_is_told_with_its_first_file_and_line(tmp_path, capsys):
    folder = write_folder(tmp_path / "in", 5)
    (folder / "gbk.txt").write_bytes("床前明月光，疑是地上霜。".encode("gb18030"))
    write_jsonl(folder / "more.jsonl", [write_texts(5)[2], "new", "x" * 3000])
    with open(folder / "more.jsonl", "a") as file:
        file.write("no json\n{}\n{}\n")
    (folder / "table.csv").write_text("a,b\n")
    (folder / "out.txt").symlink_to("/etc/passwd")
    with tarfile.open(folder / "z.tar", "w") as archive:
        archive.add(folder / "0000.txt", arcname="a.txt")
        archive.add(folder / "0000.txt", arcname="a.json")
    prepare(folder, tmp_path / "out", most_document_bytes=2000)
    said = capsys.readouterr().out
    for line in (
        "1 files of other endings left out: 1 .csv; 1 links that leave the folder",
        "1 bad_json, 2 duplicate, 2 no_text_field, 1 too_large, 1 undecodable, of 13 documents read",
        "bad_json: first more.jsonl, line 4: is not JSON",
        "no_text_field: first more.jsonl, line 5",
        "too_large: first more.jsonl, line 3",
        "undecodable: first gbk.txt, byte 1: perhaps GB18030, a guess",
        "duplicate: first more.jsonl, record 0",
        "1 members of tars beside the text of their sample",
    ):
        assert line in said


def test_names_that_are_not_utf8_or_as_long_as_can_be_are_prepared(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("三国演义".encode("gbk"), "红楼梦".encode(), b"x" * 251):
        with open(os.path.join(os.fsencode(folder), name + b".txt"), "w") as file:
            file.write(f"the text of {name!r}")
    for output in ("y" * 255, "三" * 85, os.fsdecode("输出".encode("gbk"))):
        prepare(folder, tmp_path / output)
        for file in ("plan.json", "train/manifest.json"):
            assert r"\\xc8\\xfd\\xb9\\xfa" in (tmp_path / output / file).read_text("utf-8")
        files = read_manifest(tmp_path / output / "train").sources[0].files
        assert r"\xc8\xfd\xb9\xfa\xd1\xdd\xd2\xe5.txt" in files
        assert "红楼梦.txt" in files
        assert main(configure(folder, tmp_path / output)) == 0


def test_a_test_set_takes_documents_of_its_own_and_moves_none_for_validation(tmp_path):
    file = write_jsonl(tmp_path / "a.jsonl", write_texts(300))
    two = prepare(file, tmp_path / "two", validation_fraction=0.1)
    three = prepare(file, tmp_path / "three", validation_fraction=0.1, test_fraction=0.2)
    held = {split: read_manifest(three / split).documents for split in ("train", "validation", "test")}
    assert sum(held.values()) == 300
    assert 30 < held["test"] < 90
    for output in (two, three):
        assert read_manifest(output / "validation").documents == held["validation"]


def test_a_locale_of_ascii_alone_reads_and_writes_names_of_any_script(tmp_path):
    folder = tmp_path / "语料"
    write_jsonl(folder / "文.jsonl", write_texts(5), field="文本")
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    words = [f"data.input={folder}", f"data.output={tmp_path / '输出'}", "data.text_field=文本", "data.licence=协议"]
    small = ["data.validation_fraction=0", "data.tokenizer.train.vocab_size=300", "data.workers=2"]
    command = [sys.executable, "-m", "launch", "prepare", *words, *small]
    done = subprocess.run(command, env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    manifest = read_manifest(tmp_path / "输出" / "train")
    assert manifest.sources[0] == SourceGroup(str(folder), "协议", ("文.jsonl",))


def test_prepare_needs_no_torch(tmp_path):
    write_folder(tmp_path / "in", 3)
    code = (
        "import sys; from trainer.verbs.prepare import main; import trainer.verbs.data; print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
