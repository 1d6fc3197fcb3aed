"""The order asked the other way round: the same positions as when all of them are looked at."""

import numpy as np
import pytest

from tests.corpus import make_dataset
from trainer.config import Data
from trainer.data.tokens.datasets import open_training
from trainer.data.tokens.order import Order, Segment, Share, Shuffle
from trainer.data.tokens.packing import row_packing
from trainer.data.tokens.row_positions import positions_of_rows, rows_with
from trainer.run.provenance import spans_in_row


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "web", documents=60, shards=5)
    make_dataset(folder / "books", documents=20, shards=2, seed=3)
    return folder


@pytest.mark.parametrize("packing", ["stream", "whole", "single"])
def test_positions_of_a_document_are_those_at_which_its_rows_come(folders, packing):
    data = Data(path=str(folders / "web"), sequence_length=32, packing=packing)
    assert row_packing(data, 0) is None or packing != "stream"
    (web,) = open_training(data)
    (books,) = open_training(Data(path=str(folders / "books"), sequence_length=32, packing=packing))
    rows = [web.rows, books.rows]
    fingerprint, other = (each.fingerprint for each in rows)
    first = Segment(0, {"web": Share(fingerprint, 3072, 0), "books": Share(other, 1024, 0)})
    later = {"web": Share(fingerprint, 4096, first.counters_at(500)["web"])}
    segments = [first, Segment(500, later)]
    order, stop = Order(rows, segments, seed=7, window=2), 500 + 2 * web.rows.total + 11
    shuffle = Shuffle(web.rows, seed=7, window=2)
    places = order.places(0, stop)
    spans = {}
    for place in places:
        key = place.shard, place.row
        if place.fingerprint == fingerprint and key not in spans:
            spans[key] = {document.xxh3 for document, _, _ in spans_in_row(web, *key)}
    for shard in (0, 3):
        for document in web.shards[shard].documents(0, web.manifest.shards[shard].tokens)[::3]:
            expected = [
                position
                for position, place in enumerate(places)
                if place.fingerprint == fingerprint and document.xxh3 in spans[place.shard, place.row]
            ]
            wanted = rows_with(web, shard, document.start, document.stop)
            assert positions_of_rows(segments, shuffle, fingerprint, wanted, stop=stop).tolist() == expected


def test_before_its_first_row_nothing_is_found(folders):
    (web,) = open_training(Data(path=str(folders / "web"), sequence_length=32))
    segments = [Segment(0, {"web": Share(web.rows.fingerprint, 4096, 0)})]
    shuffle = Shuffle(web.rows, seed=0, window=2)
    every = {shard: np.arange(count) for shard, count in enumerate(web.rows.rows)}
    assert positions_of_rows(segments, shuffle, web.rows.fingerprint, every, stop=0).tolist() == []
    found = positions_of_rows(segments, shuffle, web.rows.fingerprint, every, stop=web.rows.total)
    assert found.tolist() == list(range(web.rows.total))
    assert positions_of_rows(segments, shuffle, "0" * 64, every, stop=9).tolist() == []
