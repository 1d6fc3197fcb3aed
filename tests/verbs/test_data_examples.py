"""docs/DATA.md by example: each command and input that it shows is run, on files and servers as it supposes them."""

import bz2
import gzip
import re
import shlex
from itertools import count
from pathlib import Path

import pytest

from launch.cli import main
from tests.corpus import write_texts
from tests.data.text.formats import crawl, epub, jsonl, parquet, tar, wikipedia
from tests.data.text.servers import RangeHandler, bucket_server, fill_bucket, served_folder
from tests.data.text.stores import hub
from trainer.data.tokens.manifest import read_manifest

CODE = re.findall(r"^```\n(.*?)^```", Path("docs/DATA.md").read_text(), re.DOTALL | re.MULTILINE)
LINES = [line for block in CODE for line in block.replace("\\\n", "").splitlines()]
COMMANDS = [line for line in LINES if line.startswith("banyan prepare")]
INPUTS = [line for line in LINES if line.startswith("data.input=")]
ENCODINGS = [line for line in LINES if line.startswith("data.encoding=")]
SOUNDS = re.search(r"^```json\n(.*?)^```", Path("docs/DATA.md").read_text(), re.DOTALL | re.MULTILINE)[1].encode()
SMALL = ["data.validation_fraction=0", "data.workers=1", "data.tokenizer.train.vocab_size=300"]

texts = (write_texts(4, seed=seed) for seed in count())  # no two alike


def warc():
    return b"".join(map(gzip.compress, crawl(next(texts))))


def files():
    """What the examples suppose to be there, and how many documents each holds."""
    here = {
        "my_texts/a.txt": (next(texts)[0].encode(), 1),
        "my_texts/b.jsonl": (jsonl(next(texts)), 4),
        "books/a.epub": (epub(next(texts)), 1),
        "a.jsonl": (jsonl(next(texts)), 4),
        "b.parquet": (parquet(next(texts)), 4),
        "crawl/a.warc.gz": (warc(), 4),
        "crawl/b.warc.gz": (warc(), 4),
        "wiki.txt": ("\n\n\n".join(next(texts)).encode(), 4),
        "all.txt": ("<|endoftext|>".join(next(texts)).encode(), 4),
        "sounds.jsonl": (SOUNDS, 2),
        "zh/a.jsonl": (jsonl(next(texts)).replace(b'"text"', b'"content"'), 4),
        "zhwiki-20250101-pages-articles.xml.bz2": (bz2.compress(wikipedia(next(texts))), 4),
        **{f"shards/{number:03d}.tar": (tar(next(texts)), 4) for number in range(128)},
    }
    host = {f"part-{number:02d}.jsonl.gz": (gzip.compress(jsonl(next(texts))), 4) for number in range(10)}
    bucket = {"texts/a.jsonl": (jsonl(next(texts)), 4), "crawl/a.warc.gz": (warc(), 4)}
    segments = "crawl-data/CC-MAIN-2025-05/segments"
    commoncrawl = {f"{segments}/{number}/warc/CC-MAIN-x-0000{number}.warc.gz": (warc(), 4) for number in range(2)}
    owned = {"data/train.parquet": (parquet(next(texts)), 4)}
    fineweb = {f"sample/10BT/00{number}_00000.parquet": (parquet(next(texts)), 4) for number in range(2)}
    return {
        "here": here,
        "host": host,
        "bucket": bucket,
        "commoncrawl": commoncrawl,
        "OWNER": owned,
        "fineweb": fineweb,
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Writes the files, starts the servers; gives a function that runs an example and returns its manifest."""
    root = tmp_path_factory.mktemp("world")
    for place, contents in files().items():
        for name, (content, _) in contents.items():
            (root / place / name).parent.mkdir(parents=True, exist_ok=True)
            (root / place / name).write_bytes(content)
    outputs = count()
    with bucket_server(), served_folder(root / "host", RangeHandler) as host, pytest.MonkeyPatch.context() as patch:
        patch.chdir(root / "here")
        for name in ("bucket", "commoncrawl"):
            fill_bucket(root / name, name)

        def run(arguments):
            output = f"data/example-{next(outputs)}"
            given = [argument.replace("https://host", host) for argument in arguments]
            given = [argument for argument in given if not argument.startswith("data.output=")]
            with hub(root / ("fineweb" if "fineweb" in str(given) else "OWNER")):
                code = main(["prepare", *given, *SMALL, f"data.output={output}"])
            return code if code else read_manifest(Path(output) / "train")

        yield run


DOCUMENTS = {
    "my_texts/": 5,
    "books/": 1,
    "a.jsonl,b.parquet": 8,
    "crawl/*.warc.gz": 8,
    "shards/{000..127}.tar": 512,
    "s3://bucket/texts/": 4,
    "https://host/part-{00..09}.jsonl.gz": 40,
    "hf://datasets/OWNER/NAME/data/train.parquet": 4,
    "s3://commoncrawl/crawl-data/CC-MAIN-2025-05/segments/*/warc/CC-MAIN-*-0000?.warc.gz": 8,
    "zhwiki-20250101-pages-articles.xml.bz2": 4,
    "hf://datasets/HuggingFaceFW/fineweb/sample/10BT/*.parquet": 8,
    "wiki.txt": 4,
    "all.txt": 4,
    "sounds.jsonl": 2,
}


def fragment(line):
    """What stands before the explanation."""
    return shlex.split(re.split(r" {2,}", line)[0])


def input_of(arguments):
    return next((argument.removeprefix("data.input=") for argument in arguments if "data.input=" in argument), None)


@pytest.mark.parametrize("line", INPUTS)
def test_every_input_is_read(line, world):
    (argument,) = fragment(line)
    assert world([argument]).documents == DOCUMENTS[input_of([argument])]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_does_what_is_said_of_it(line, world, capsys):
    arguments = shlex.split(line, comments=True)[2:]
    if (given := input_of(arguments)) is not None:
        assert world(arguments).documents == DOCUMENTS[given]
        return
    assert world(arguments) == 2
    assert "data.sources.web: its licence is unknown" in capsys.readouterr().err
    allowed = world([argument for argument in arguments if "refuse_licences" not in argument])
    assert [group.licence for group in allowed.sources] == ["unknown", "CC0-1.0", None]
    assert allowed.documents == 9


@pytest.mark.parametrize("line", ENCODINGS)
def test_every_encoding_is_read(line, world):
    Path("legacy").mkdir(exist_ok=True)
    Path("legacy/a.txt").write_bytes("床前明月光，疑是地上霜。举头望明月，低头思故乡。".encode("gb18030"))
    manifest = world(["data.input=legacy", *fragment(line)])
    assert manifest.documents == 1
    assert manifest.prepared["changed"] == {"decoded from gb18030": 1}


def test_examples_are_found():
    assert (len(COMMANDS), len(INPUTS), len(ENCODINGS)) == (8, 7, 2)
