"""Documents that were tokens when they came have no bytes: neither their set nor their source has bits per byte."""

import json
import math

import numpy as np
import pytest

from tests.corpus import make_tokenizer, write_texts
from tests.data.web.wds import configure_index, write_wds
from tests.run_ranks import pretrain, run_ranks, small_config
from trainer.config import ValidationSet
from trainer.data.tokens.manifest import read_manifest
from trainer.verbs.index import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of two sources, texts and tokens; and one of the tokens alone."""
    folder, tokenizer = tmp_path_factory.mktemp("stored"), make_tokenizer()
    texts = write_texts(24, seed=3)
    write_wds(folder / "texts", [{"txt": text} for text in texts[:12]], (12,))
    write_wds(folder / "tokens", [{"npy": np.array(tokenizer.encode(text), np.uint16)} for text in texts[12:]], (12,))
    for name, inputs in {"both": ["texts", "tokens"], "stored": ["tokens"]}.items():
        config = configure_index("", folder, output=str(folder / name))
        config.data.input = [str(folder / each) for each in inputs]
        assert main(config) == 0
    return folder


def test_a_set_with_stored_tokens_has_bits_per_byte_for_its_sources_of_text_alone(folder, tmp_path):
    assert read_manifest(folder / "both").indexed.stored_tokens == 12
    settings = {"train__steps": 2, "evaluate__every": 2, "evaluate__split_by": "source", "evaluate__bigram": False}
    config = small_config(folder, tmp_path / "run", **settings)
    config.data.path = str(folder / "both")
    config.data.validation = {name: ValidationSet(str(folder / name)) for name in ("both", "stored")}
    assert run_ranks(pretrain, config, 1) == [0]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (found,) = [row for row in rows if "eval/both/loss" in row]
    by_bytes = {key for key in found if "per_byte" in key}
    assert by_bytes == {"eval/both/source/texts/bits_per_byte", "eval/both/source/texts/tokens_per_byte"}
    assert all(math.isfinite(value) for key, value in found.items() if key.startswith("eval/"))
    assert {"eval/both/loss", "eval/stored/loss"} <= found.keys()
