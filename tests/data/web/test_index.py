"""WebDatasets of others: what `banyan data index` finds in them, and that it is what prepare finds."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from io import BytesIO

import numpy as np
import pytest

from tests.corpus import make_tokenizer, write_texts
from tests.data.text.servers import bucket_server, fill_bucket
from tests.data.web.wds import index_wds, write_tar, write_wds
from tests.prepared import prepare
from tests.scale.opened import files_opened
from trainer.config import TokenizerSettings
from trainer.data.tokens.dataset import find_damage, find_missing_file, open_dataset
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.packing import Packing
from trainer.data.tokens.shards import Shards
from trainer.data.tokens.verify import verify
from trainer.data.web.index_again import index_again
from trainer.errors import InputError

TEXTS = write_texts(97, seed=3)
TOKENIZER = make_tokenizer()
END = TOKENIZER.end_of_text_id


def ids_of_texts(texts):
    return [[*TOKENIZER.encode(text), END] for text in texts]


def documents_of(folder):
    """The tokens of all documents, by their places."""
    found = []
    for reader in Shards(read_manifest(folder)):
        stops = np.cumsum(reader.lengths()).tolist()
        found += [reader.read(start, stop).tolist() for start, stop in zip([0, *stops], stops, strict=False)]
    return found


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexed")
    write_wds(folder / "tars", [{"txt": text, "cls": number} for number, text in enumerate(TEXTS)])
    return index_wds(f"{folder}/tars/{{000000..000004}}.tar", folder)


def test_documents_are_those_of_the_tars_with_the_ids_of_the_tokenizer(indexed):
    assert documents_of(indexed) == ids_of_texts(TEXTS)
    manifest = read_manifest(indexed)
    assert (manifest.documents, manifest.text_bytes) == (97, sum(len(text.encode()) for text in TEXTS))
    assert verify(manifest) == []
    span = Shards(manifest)[3].documents(0, 5)[0]
    assert manifest.source_name(span.source).endswith("000003.tar")


def test_rows_of_the_stream_go_on_from_tar_to_tar(indexed):
    dataset = open_dataset("train", str(indexed), key="data.path", split="train", sequence_length=32)
    stream = np.concatenate(ids_of_texts(TEXTS))
    rows = (len(stream) - 1) // 32
    assert dataset.rows.total == rows
    expected = np.stack([stream[row * 32 : row * 32 + 33] for row in range(rows)])
    assert np.array_equal(dataset.gather_in_file_order(np.arange(rows)), expected)
    draw = np.random.default_rng(0).permutation(rows)
    assert np.array_equal(dataset.gather_in_file_order(draw), expected[draw])


def sample_kinds(text):
    """One text in each way that a sample can hold it."""
    return {
        "a.txt": text.encode(),
        "b.txt.gz": gzip.compress(text.encode()),
        "c.json": json.dumps({"text": text, "url": "http://x.org"}).encode(),
        "d.json.gz": gzip.compress(json.dumps({"text": text}).encode()),
        "e.jsonl": json.dumps({"text": text}).encode() + b"\n\n" + json.dumps({"text": f"{text} more"}).encode(),
    }


def test_every_kind_of_member_is_read(tmp_path):
    tokens = TOKENIZER.encode(TEXTS[1])
    members = list(sample_kinds(TEXTS[0]).items())
    many = json.dumps(tokens)
    members += [("f.json", many.encode()), ("g.json.gz", gzip.compress(many.encode())), ("h.txt", many.encode())]
    for name, dtype in (("i", "<u2"), ("j", "<i4"), ("k", "<i8")):
        members.append((f"{name}.npy", npy(np.array(tokens, dtype))))
    members.append(("l.npy", npy(np.array([tokens[:20], tokens[20:40]], np.uint16))))
    members.append(("m.json", json.dumps({"text": tokens}).encode()))
    write_tar(tmp_path / "a.tar", members)
    found = documents_of(index_wds(str(tmp_path / "a.tar"), tmp_path))
    assert found[:6] == [*ids_of_texts([TEXTS[0]] * 5), *ids_of_texts([f"{TEXTS[0]} more"])]
    assert found[6:12] == [tokens] * 6
    assert found[12:] == [tokens[:20], tokens[20:40], tokens]


def npy(array):
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_the_layout_of_open_lm_and_dclm_is_read_with_its_manifest(tmp_path):
    """KEY.json.gz of 33 tokens each, NNNNNNNN.tar, and manifest.jsonl: rows are their sequences."""
    stream = np.concatenate(ids_of_texts(TEXTS))
    sequences = [stream[start : start + 33].tolist() for start in range(0, 33 * 20, 33)]
    for number in range(2):
        part = sequences[number * 10 : number * 10 + 10]
        members = [(f"{key:032x}.json.gz", gzip.compress(json.dumps(each).encode())) for key, each in enumerate(part)]
        write_tar(tmp_path / f"{number:08d}.tar", members)
    lines = [json.dumps({"shard": f"{number:08d}", "num_sequences": 10}) for number in range(2)]
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    folder = index_wds(str(tmp_path / "manifest.jsonl"), tmp_path)
    assert documents_of(folder) == sequences
    packed = open_dataset(
        "t", str(folder), key="k", split="train", sequence_length=32, packing=Packing(0, cut=False, single=True)
    )
    rows = packed.rows_in_file_order(np.arange(20))
    assert rows.inputs.tolist() == [each[:-1] for each in sequences]
    assert rows.targets.tolist() == [each[1:] for each in sequences]
    (tmp_path / "manifest.jsonl").write_text(lines[0].replace("10}", "11}"))
    with pytest.raises(InputError, match="10 sequences, 11 by the manifest"):
        index_wds(str(tmp_path / "manifest.jsonl"), tmp_path, output=str(tmp_path / "other"))


def test_what_holds_no_document_is_counted_by_reason(tmp_path):
    members = [
        ("a.txt", TEXTS[0].encode()),
        ("b.txt", b"\xff\xfe\xfa"),
        ("c.txt", b"  "),
        ("d.json", b"{no json"),
        ("e.json", b'{"other": 1}'),
        ("f.json", b'["words"]'),
        ("g.cls", b"3"),
        ("h.npy", npy(np.array([1.5, 2.5]))),
        ("i.npy", npy(np.array(["a", {}], object))),
        ("j.json.gz", gzip.compress(b"[1," * 10)[:-9]),
        ("k.txt.gz", gzip.compress(b"x" * 3_000_000)),
        ("l.txt", b"y" * 2_000_000),
        ("../../etc/m.txt", TEXTS[1].encode()),
    ]
    write_tar(tmp_path / "a.tar", members)
    folder = index_wds(str(tmp_path / "a.tar"), tmp_path, most_document_bytes=100_000)
    manifest = read_manifest(folder)
    assert documents_of(folder) == ids_of_texts(TEXTS[:2])
    assert manifest.documents_read == 13
    expected = {"undecodable": 1, "empty": 1, "bad_json": 1, "no_text_field": 2, "bad_record": 4, "too_large": 2}
    assert manifest.rejected == dict(sorted(expected.items()))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("a.pth", b"\x80\x04.")], "a pickle"),
        ([("a.pickle", b"")], "a pickle"),
        ([("a.txt", b"one"), ("a.txt", b"two")], "two members"),
        ([("a.jsonl.gz", b"")], "packed within a tar"),
        ([("a.png", b"")], "no sample has a document"),
        ([], "holds no file"),
        ([("a.npy", npy(np.array([1, 5000], np.uint16)))], "the token 5000"),
        ([("a.npy", npy(np.array([1, -1], np.int32)))], "the token -1"),
        ([("a.b.txt", b"one")], "after the first dot"),
    ],
)
def test_tars_that_can_t_be_honoured_are_refused_in_one_line(tmp_path, members, said):
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=said) as refused:
        index_wds(str(tmp_path / "a.tar"), tmp_path)
    assert "\n" not in str(refused.value)
    assert "a.tar" in str(refused.value)
    assert os.listdir(tmp_path / "index") == []  # so that the mended command isn't refused


def test_a_tar_that_changed_stops_the_run_and_one_with_the_same_documents_is_indexed_again(tmp_path):
    write_wds(tmp_path / "tars", [{"txt": text} for text in TEXTS[:10]], (4, 6))
    folder = index_wds(str(tmp_path / "tars"), tmp_path)
    fingerprint, tar = read_manifest(folder).fingerprint, tmp_path / "tars" / "000001.tar"
    os.utime(tar, (1, 1))
    with pytest.raises(InputError, match=r"000001.tar: it has changed .* time differs.*banyan data index"):
        documents_of(folder)
    assert index_again(read_manifest(folder)).fingerprint == fingerprint
    assert documents_of(folder) == ids_of_texts(TEXTS[:10])
    status = tar.stat()
    content = tar.read_bytes()
    word = TEXTS[7].split()[0].encode()
    place = content.index(TEXTS[7].encode())
    tar.write_bytes(content[:place] + b"W" + content[place + 1 :])
    os.utime(tar, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert word
    with pytest.raises(InputError, match="record 3 isn't what was indexed"):
        documents_of(folder)
    with pytest.raises(InputError, match="isn't what was indexed: 6 documents"):
        index_again(read_manifest(folder))
    assert len(verify(read_manifest(folder))) == 1
    tar.write_bytes(content[:-10240])
    with pytest.raises(InputError, match=r"bytes, .* when it was indexed"):
        documents_of(folder)


def test_an_index_that_was_meddled_with_is_refused(tmp_path):
    write_wds(tmp_path / "tars", [{"txt": text} for text in TEXTS[:4]], (4,))
    folder = index_wds(str(tmp_path / "tars"), tmp_path)
    index = folder / "shard-000000.index"
    content = bytearray(index.read_bytes())
    content[-3] ^= 1
    index.write_bytes(content)
    with pytest.raises(InputError, match="its hash differs"):
        documents_of(folder)
    index.write_bytes(b"")
    with pytest.raises(InputError, match="can't be read"):
        documents_of(folder)


def test_a_bucket_is_read_as_a_folder_is(tmp_path, monkeypatch):
    write_wds(tmp_path / "tars", [{"txt": text} for text in TEXTS[:40]], (1, 30, 9))
    with bucket_server() as server:
        bucket = fill_bucket(tmp_path / "tars")
        folder = index_wds(f"{bucket}/{{000000..000002}}.tar", tmp_path)
        assert documents_of(folder) == ids_of_texts(TEXTS[:40])
        assert server is not None


KILLED = """
import sys
from tests.data.web.wds import configure_index
from trainer.verbs.index import main
from pathlib import Path

if __name__ == "__main__":
    sys.exit(main(configure_index(sys.argv[1], Path(sys.argv[2]), output=sys.argv[3])))
"""


def test_killed_at_any_moment_the_same_command_goes_on_and_writes_the_same(tmp_path):
    write_wds(tmp_path / "tars", [{"txt": text} for text in TEXTS], (3,) * 32)
    calm = index_wds(str(tmp_path / "tars"), tmp_path)
    (tmp_path / "run.py").write_text(KILLED)
    killed = tmp_path / "killed"
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "tars"), str(tmp_path), str(killed)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and len(list(killed.glob("*.index"))) < 3:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert (killed / "partial").exists()
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode == 0
    names = sorted(path.name for path in calm.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    assert read_manifest(killed).fingerprint == read_manifest(calm).fingerprint
    assert all((calm / name).read_bytes() == (killed / name).read_bytes() for name in names if name.endswith(".index"))


SHARED = """
import os, sys
from launch.slurm.array import share_of
from tests.data.web.wds import configure_index
from trainer.data.text import shared_work
from trainer.verbs.index import main
from pathlib import Path

if __name__ == "__main__":
    shared_work.BEAT_S, shared_work.STALE_S, shared_work.POLL_S = 0.1, 1.5, (0.05, 0.2)
    config = configure_index(sys.argv[1], Path(sys.argv[2]), output=sys.argv[3], workers=1)
    sys.exit(main(config, share=share_of(os.environ)))
"""


def test_elements_of_an_array_share_the_tars_out_and_one_may_die(tmp_path):
    write_wds(tmp_path / "tars", [{"txt": text} for text in TEXTS], (3,) * 32)
    calm = index_wds(str(tmp_path / "tars"), tmp_path)
    (tmp_path / "run.py").write_text(SHARED)
    shared = tmp_path / "shared"
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "tars"), str(tmp_path), str(shared)]
    started = []
    for element in range(2):
        array = {"JOB_ID": 7, "TASK_ID": element, "TASK_MIN": 0, "TASK_COUNT": 2}
        names = {f"SLURM_ARRAY_{name}": str(value) for name, value in array.items()}
        environment = {**os.environ, "PYTHONPATH": os.getcwd()} | names
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    while started[0].poll() is None and not list(shared.glob("*.index")):
        time.sleep(0.002)
    started[0].kill()
    assert [process.wait() for process in started][1:] == [0]
    assert read_manifest(shared).fingerprint == read_manifest(calm).fingerprint
    assert not (shared / "partial").exists()


def test_rows_and_losses_are_those_of_the_same_documents_prepared(tmp_path):
    """Of one tar and one shard; hard texts among them."""
    texts = [*TEXTS[:20], "\ufeffx y", "a <|endoftext|> b", "中文，字符。\r\n  tab\tE\u0301", "x" * 70_000]
    write_wds(tmp_path / "tars", [{"txt": text} for text in texts], (len(texts),))
    folder = index_wds(str(tmp_path / "tars"), tmp_path)
    tokenizer = TokenizerSettings(path=str(tmp_path / "tokenizer"))
    whole = {"shuffle_documents": False, "deduplicate": False, "shard_bytes": 10**6, "tokenizer": tokenizer}
    own = prepare(tmp_path / "tars", tmp_path / "own", **whole)
    for packing in (None, Packing(0, cut=True), Packing(0, cut=False, single=True)):
        sets = [
            open_dataset("v", str(path), key="k", split="train", sequence_length=32, packing=packing)
            for path in (folder, own)
        ]
        assert sets[0].rows.rows == sets[1].rows.rows
        rows = [each.rows_in_file_order(np.arange(each.rows.total)) for each in sets]
        if packing is None:
            assert np.array_equal(*rows)
        else:
            assert np.array_equal(rows[0].inputs, rows[1].inputs)
            assert np.array_equal(rows[0].targets, rows[1].targets)
            assert np.array_equal(rows[0].document_ids, rows[1].document_ids)


def test_a_start_opens_no_more_of_many_tars_than_of_few(tmp_path):
    opened = []
    for count in (4, 48):
        folder = tmp_path / str(count)
        write_wds(folder / "tars", [{"txt": text} for text in TEXTS[:count]], (1,) * count)
        index = index_wds(str(folder / "tars"), folder)
        with files_opened(folder) as files:
            dataset = open_dataset("t", str(index), key="k", split="train", sequence_length=32)
            assert find_missing_file(dataset, part=0, parts=1) is None
            assert find_damage(dataset, part=0, parts=1) is None
        opened.append(len(files))
    assert opened[0] == opened[1] <= 4
