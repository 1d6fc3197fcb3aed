"""Prepared folders as prepare and its cleaning leave them, with hostile text in every place."""

import json
import random

import numpy as np
import zstandard

from tests.corpus import write_texts
from tests.prepared import prepare, write_jsonl
from trainer.data.text.near_dropped import MEMBER
from trainer.data.tokens.manifest import read_manifest

HOSTILE = (
    "</pre></main><script>alert(1)</script>\n````\n# | <img src=https://x.example/p.png onerror=alert(2)> \u202eevil"
    "\x1b[31m"
)
CHINESE = "榕樹的根在石頭下面尋找水源，葉子在雨中安靜地生長，村裡的人們坐在樹下講故事。"


def prepared_folder(folder):
    """An output of prepare: English, Chinese, hostile documents, a duplicate, an empty one, a name like a tag."""
    draw = random.Random(0)
    chinese = ["".join(draw.choices(CHINESE.split("，"), k=20)) + str(number) for number in range(40)]
    english, other = folder / "in" / "<b>en", folder / "in" / "zh"
    write_jsonl(english / "<img src=x>.jsonl", [*write_texts(60), HOSTILE, HOSTILE, " "])
    write_jsonl(other / "a.jsonl", [*chinese, HOSTILE + "二"])
    return prepare([english, other], folder / "out", licence="CC0 <i>", validation_fraction=0.05, workers=1)


def add_cleaning(output):
    """What the cleaning and the search for near-duplicates leave beside the shards, and note in the manifest."""
    rejected = output / "rejected"
    rejected.mkdir()
    entries = [
        {"rule": "gopher_quality.words", "value": 3, "limit": 50, "source": "<u>.jsonl", "record": n, "text": HOSTILE}
        for n in range(3)
    ]
    content = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    (rejected / "gopher_quality.words.jsonl.zst").write_bytes(zstandard.compress(content))
    members = np.zeros(5, MEMBER)
    members["size"], members["first_of_cluster"] = [2, 2, 3, 3, 3], [1, 0, 1, 0, 0]
    (output / "near_duplicates").mkdir()
    (output / "near_duplicates" / "members.zst").write_bytes(zstandard.compress(members.tobytes()))
    for split in ("train", "validation"):
        path = output / split / "manifest.json"
        content = json.loads(path.read_text())
        content["rejected"] |= {"gopher_quality.words": 3, "c4.sentences": 4, "near_duplicate": 3}
        content["documents_read"] += 10
        content["prepared"] |= {
            "data.clean.stages": ["gopher_quality", "c4"],
            "data.sources": {"en": {"input": [content["sources"][0]["input"]], "language": "en<s>"}},
            "domains": {"example.org": 7, "<script>": 2},
            "changed": {"personal: <email> masked": 5},
        }
        path.write_text(json.dumps(content))
        read_manifest(output / split)
    return output
