"""data.format=preference: what a pair is, how its sides become one document, and what is refused or counted."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

from tests.corpus import make_tokenizer
from tests.data.examples.test_render import renderer
from tests.prepared import prepare, shard_files
from trainer.data.examples.faults import ExampleFault
from trainer.data.examples.formats import to_bytes
from trainer.data.examples.preference import preference_of
from trainer.data.examples.render import Renderer
from trainer.data.tokens.dataset import open_dataset
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.packing import Packing
from trainer.data.tokens.shard_writer import write_shard
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.data.tokens.verify import verify
from trainer.errors import InputError

ASKED = [{"role": "user", "content": "the tree?"}]
GOOD = [{"role": "assistant", "content": "grows"}]
BAD = [{"role": "assistant", "content": "falls"}]
TEXTS = {"prompt": "the tree", "chosen": " grows", "rejected": " falls and falls"}


def render(record):
    """Both sides of a record, as text: whole, and what is learnt."""
    rendering = renderer()
    rendered = rendering.render(to_bytes(preference_of(record, "text")))
    edges = [0, rendered.sides, len(rendered.ids)]
    return [
        (
            rendering.tokenizer.decode(rendered.ids[start:stop]),
            rendering.tokenizer.decode(rendered.ids[start:stop][rendered.targets[start:stop]]),
        )
        for start, stop in itertools.pairwise(edges)
    ]


def test_texts_are_joined_as_they_are():
    assert render(TEXTS) == [
        ("the tree grows<|endoftext|>", " grows<|endoftext|>"),
        ("the tree falls and falls<|endoftext|>", " falls and falls<|endoftext|>"),
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
        {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": ASKED, "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": "the tree?", "chosen": ASKED + GOOD, "rejected": ASKED + BAD},
        {"prompt": "the tree?", "chosen": GOOD, "rejected": BAD},
    ],
    ids=["apart", "implicit", "repeated", "repeated text", "text"],
)
def test_messages_are_rendered_however_the_prompt_is_given(record):
    prompt = "<|im_start|>user\nthe tree?<|im_end|>\n<|im_start|>assistant\n"
    assert render(record) == [
        (f"{prompt}grows<|im_end|><|endoftext|>", "grows<|im_end|>"),
        (f"{prompt}falls<|im_end|><|endoftext|>", "falls<|im_end|>"),
    ]


def test_answers_of_the_prompt_are_not_learnt():
    before = [*ASKED, *GOOD, {"role": "user", "content": "and?"}]
    chosen, rejected = render({"prompt": before, "chosen": BAD, "rejected": GOOD})
    assert chosen[1] == "falls<|im_end|>"
    assert rejected[1] == "grows<|im_end|>"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({**TEXTS, "rejected": " grows"}, "equal_sides"),
        ({"prompt": ASKED, "chosen": GOOD, "rejected": GOOD}, "equal_sides"),
        ({"chosen": ASKED + GOOD, "rejected": ASKED + GOOD}, "equal_sides"),
        ({**TEXTS, "chosen": " "}, "empty_answer"),
        ({"prompt": ASKED, "chosen": [{"role": "assistant", "content": ""}], "rejected": BAD}, "empty_answer"),
        ({"prompt": "a", "chosen": "b"}, "bad_fields"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "bad_fields"),
        ({"prompt": "a", "chosen": "b", "rejected": BAD}, "bad_fields"),
        ({"prompt": ASKED, "chosen": [3], "rejected": BAD}, "bad_fields"),
        ({"prompt": ASKED, "chosen": ASKED, "rejected": BAD}, "no_target"),
    ],
)
def test_what_is_no_pair_has_a_reason(record, reason):
    with pytest.raises(ExampleFault) as caught:
        preference_of(record, "text")
    assert caught.value.reason == reason


def test_sides_of_the_same_tokens_are_equal():
    rendering = Renderer(make_tokenizer())
    with pytest.raises(ExampleFault, match="the same tokens"):
        rendering.render_preference({"prompt": "a", "chosen": "b", "rejected": "b"})


def test_shards_hold_pairs_whole_and_rows_cut_none(tmp_path):
    records = [
        {"prompt": f"the tree {n}", "chosen": " grows" * (1 + n % 5), "rejected": " falls" * (2 + n % 7)}
        for n in range(60)
    ]
    source = tmp_path / "pairs.jsonl"
    source.write_text(
        "".join(json.dumps(record) + "\n" for record in [*records, records[0], {**TEXTS, "rejected": " grows"}])
    )
    with pytest.raises(InputError, match=r"pairs\.jsonl, line 62: chosen and rejected are the same; mend the record"):
        prepare(source, tmp_path / "refused", format="preference")
    one = prepare(source, tmp_path / "one", format="preference", bad_records="reject")
    two = prepare(source, tmp_path / "two", format="preference", bad_records="reject", workers=2)
    assert shard_files(one) == shard_files(two)
    manifest = read_manifest(one / "train")
    assert verify(manifest) == []
    assert manifest.rejected == {"duplicate": 1, "equal_sides": 1}
    assert json.loads((manifest.folder / "manifest.json").read_text())["version"] == 4
    tokenizer, found = load_tokenizer(manifest.tokenizer_file), []
    for reader in open_shards(manifest):
        for number in range(len(reader.index)):
            block = reader.block(number)
            starts = np.cumsum(block.lengths) - block.lengths
            for start, length, side in zip(starts, block.lengths, block.members["sides"][:, 0], strict=True):
                middle = start + side
                found.append(
                    (
                        tokenizer.decode(block.tokens[start:middle]),
                        tokenizer.decode(block.tokens[middle : start + length]),
                    )
                )
    ends = "<|endoftext|>"
    assert sorted(found) == sorted(
        (r["prompt"] + r["chosen"] + ends, r["prompt"] + r["rejected"] + ends) for r in records
    )
    dataset = open_dataset(
        "pairs",
        str(one),
        key="data.path",
        split="train",
        sequence_length=64,
        packing=Packing(0, cut=False),
        members=("sides",),
    )
    rows = dataset.rows_in_file_order(np.arange(dataset.rows.total))
    sides = rows.by_document["sides"][..., 0]
    assert (sides > 0).sum() == 60
    for row in range(dataset.rows.total):
        count = int((sides[row] > 0).sum())
        assert set(rows.document_ids[row].tolist()) - {count} == set(range(count))


def test_verify_tells_of_sides_and_numbers_that_cannot_be(tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps(TEXTS) + "\n")
    manifest = read_manifest(prepare(source, tmp_path / "out", format="preference") / "train")
    (reader,) = open_shards(manifest)
    block = reader.block(0)
    members = {
        "sides": block.lengths[:, None],
        "reference": np.full((1, 2), np.nan, np.float32),
        "teacher": np.zeros((len(block.tokens), 2), np.float32),
        "teacher_ids": np.full((len(block.tokens), 1), 60_000, np.uint16),
    }
    shard = write_shard(manifest.folder / "shard-000000.tar", [replace(block, members=members)], dtype=manifest.dtype)
    assert shard.members == {"sides": 1, "reference": 2, "teacher": 2, "teacher_ids": 1}
    problems = "\n".join(verify(replace(manifest, shards=(shard,))))
    for said in ("of which one would have no token", "reference holds what is no number", "the token 60000, outside"):
        assert said in problems
