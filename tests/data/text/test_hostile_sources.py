"""Files of every format with random damage: a document, a count or a refusal in one line, and nothing else."""

import bz2
import gzip
import random
import zlib

import pytest

from tests.corpus import write_texts
from tests.data.text.formats import epub, every_format, page, wikipedia
from tests.data.text.reading import find
from trainer.data.text.documents import parts_of, read_documents
from trainer.data.text.filters import rejection
from trainer.data.text.records import Rejected
from trainer.errors import InputError

TEXTS = write_texts(12)
FILES = {name: content for name, content in every_format(TEXTS).items() if not name.startswith("lines.jsonl.")}
FILES |= {"book.epub": epub(TEXTS[:4]), "page.html": page(TEXTS[0]), "page.html.gz": gzip.compress(page(TEXTS[1]))}
MOST_BYTES = 10**5


def damaged(content, draw):
    """The content with one to three places cut out, doubled, overwritten or flipped."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(content) + 1)
        length = min(draw.choice([1, 2, 4, 8, 64, 1000]), len(content) - start)
        how = draw.randrange(6)
        if how == 0:
            del content[start : start + length]
        elif how == 1:
            content[start:start] = content[start : start + length]
        elif how == 2:
            content[start : start + length] = draw.randbytes(length)
        elif how == 3 and start < len(content):
            content[start] ^= 1 << draw.randrange(8)
        elif how == 4:
            content[start : start + length] = draw.choice([b"\0", b"\xff", b"\x7f"]) * length
        else:
            del content[start:]
    return bytes(content)


def repacked(name, content, draw):
    """Damage within a packing, so that what is unpacked is damaged, too."""
    if name.endswith(".gz") and draw.random() < 0.5:
        try:
            return gzip.compress(damaged(gzip.decompress(content), draw))
        except (OSError, EOFError, zlib.error):
            pass
    return bz2.compress(damaged(bz2.decompress(content), draw)) if name.endswith(".bz2") else damaged(content, draw)


def read_all(path):
    """That each record is a usable document or rejected; the same in parts."""
    for source in find(path, most_bytes=MOST_BYTES).sources:
        whole = [document for _, document in read_documents(source)]
        for document in whole:
            if isinstance(document, Rejected):
                assert "\n" not in str(document)
            else:
                assert rejection(document) is None
                assert len(document) <= MOST_BYTES
        parts = parts_of(source, 500)
        if len(parts) > 1:
            assert [document for part in parts for _, document in read_documents(source, part=part)] == whole


def refusal_of(path):
    """Why the file is refused, if it is."""
    try:
        read_all(path)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
def test_random_damage_is_counted_or_refused(name, tmp_path):
    attack(name, tmp_path, 15)


@pytest.mark.full
@pytest.mark.parametrize("name", FILES)
def test_much_random_damage_is_counted_or_refused(name, tmp_path):
    attack(name, tmp_path, 600, seed=1)


def attack(name, tmp_path, times, seed=0):
    draw = random.Random(f"{name} {seed}")
    for _ in range(times):
        (tmp_path / name).write_bytes(repacked(name, FILES[name], draw))
        refusal = refusal_of(tmp_path / name)
        assert refusal is None or (name in refusal and "\n" not in refusal)


def test_a_dump_repeats_no_page_however_its_pieces_are_cut(tmp_path):
    (tmp_path / "dump.xml.bz2").write_bytes(b"".join(map(bz2.compress, split(wikipedia(TEXTS)))))
    (source,) = find(tmp_path).sources
    assert [document for _, document in read_documents(source)] == [text.encode() for text in TEXTS]


def split(content, size=100):
    return [content[start : start + size] for start in range(0, len(content), size)]
