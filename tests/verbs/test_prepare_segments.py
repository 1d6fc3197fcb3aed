"""Codes of images and audio beside text: prepared, trained on with losses of their own, shown, exported."""

import json

import numpy as np
import pytest
import torch

from launch.cli import main as banyan
from tests.corpus import write_texts
from tests.prepared import configure
from tests.run_ranks import pretrain, read_metrics, run_ranks, small_config
from trainer.config.modalities import Modality
from trainer.data.tokens.manifest import read_manifest
from trainer.data.tokens.shards import open_shards
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.init_folder import find_init_folder
from trainer.verbs.data import main as data
from trainer.verbs.prepare import main

AUDIO, IMAGE = Modality(codes=16, books=2), Modality(codes=32)
MODALITIES = {"audio": AUDIO, "image": IMAGE}


def tone(number: int) -> list[list[int]]:
    """A sine at two resolutions, which stand for two codebooks: (time, books)."""
    wave = np.sin(np.arange(24) * (0.2 + 0.05 * (number % 7))) * 0.5 + 0.5
    coarse = np.floor(wave * 15.99)
    return np.stack([coarse, np.floor((wave * 15.99 - coarse) * 15.99)], axis=1).astype(int).tolist()


def picture(number: int) -> list[int]:
    """A ramp of brightness, as patches."""
    return [(number + place) % 32 for place in range(16)]


def records() -> list[dict]:
    """Text, sound, text; and text with a picture, in fields."""
    found = []
    for number, text in enumerate(write_texts(60, seed=5)):
        if number % 2:
            found.append({"segments": [{"text": text[:80]}, {"audio": tone(number)}, {"text": text[80:160]}]})
        else:
            found.append({"id": number, "text": text[:120], "image": picture(number)})
    return found


def prepare_segments(inputs, output, modalities=MODALITIES, **changes):
    settings = {"format": "segments", "modalities": modalities, "validation_fraction": 0.2} | changes
    return main(configure(inputs, output, **settings))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segments")
    file = folder / "records.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records()))
    assert prepare_segments(file, folder / "out") == 0
    return folder / "out"


def documents(split):
    """Each document's ids, by its record, without the end of text."""
    found = {}
    for reader in open_shards(read_manifest(split)):
        for span in reader.documents(0, sum(reader.lengths())):
            found[span.record] = reader.read(span.start, span.stop - 1).tolist()
    return found


def test_ids_are_of_ranges_after_the_text_s_and_the_manifest_says_them(prepared):
    manifest = read_manifest(prepared / "train")
    audio, image = manifest.modalities["audio"], manifest.modalities["image"]
    assert (audio.begin, audio.end, audio.first, audio.stop) == (300, 301, 302, 334)
    assert (image.begin, image.end, image.first, image.stop) == (334, 335, 336, 368)
    assert manifest.vocab_size == 368
    written = json.loads((prepared / "train" / "manifest.json").read_text())["modalities"]
    assert written["audio"] == {"first": 302, "codes": 16, "books": 2, "begin": 300, "end": 301}
    assert not manifest.has_targets  # all is learnt, as of text
    tokenizer, given = load_tokenizer(prepared / "train" / "tokenizer"), records()
    found = documents(prepared / "train") | documents(prepared / "validation")
    assert len(found) == len(given)
    for number, record in enumerate(given):
        if "image" in record:
            expected = [*tokenizer.encode(record["text"]), 334, *(336 + code for code in record["image"]), 335]
        else:
            before, sound, after = (next(iter(segment.values())) for segment in record["segments"])
            codes = [302 + book * 16 + code for moment in sound for book, code in enumerate(moment)]
            expected = [*tokenizer.encode(before), 300, *codes, 301, *tokenizer.encode(after)]
        assert found[number] == expected


def test_a_text_that_spells_a_code_stays_text(prepared):
    tokenizer = load_tokenizer(prepared / "train" / "tokenizer")
    ids = tokenizer.encode("<|audio:0:3|><|image|>")
    assert max(ids) < 300
    assert tokenizer.decode(ids) == "<|audio:0:3|><|image|>"
    assert tokenizer.decode([305, 334]) == "<|audio:0:3|><|image|>"


def test_a_run_tells_losses_by_modality_and_shows_its_data(prepared, tmp_path, capsys):
    runs = {}
    for ranks, stage, micro in ((1, 0, 8), (2, 3, 2)):
        run_dir = tmp_path / f"run{ranks}"
        config = small_config(
            prepared, run_dir, train__steps=4, parallel__zero_stage=stage, train__micro_batch_size=micro
        )
        config.evaluate.every, config.model.loss_chunk = 4, 50 * ranks  # one way to the losses in chunks, and the other
        assert run_ranks(pretrain, config, ranks) == [0] * ranks
        runs[ranks] = read_metrics(run_dir)
        for row in runs[ranks]:
            shares = [row[f"modality/{name}/share"] for name in ("audio", "image", "text")]
            losses = [row.get(f"modality/{name}/loss", 0.0) for name in ("audio", "image", "text")]
            assert sum(shares) == pytest.approx(1)
            assert sum(s * loss for s, loss in zip(shares, losses, strict=True)) == pytest.approx(row["train/loss"])
    assert min(runs[1][-1][f"modality/{name}/share"] for name in ("audio", "image", "text")) > 0.05
    for key in runs[1][-1]:
        if key.startswith("modality/"):
            assert [row[key] for row in runs[1]] == pytest.approx([row[key] for row in runs[2]], rel=1e-4)
    logged = [json.loads(line) for line in (tmp_path / "run1" / "metrics.jsonl").read_text().splitlines()]
    scored = [row for row in logged if "eval/validation/loss" in row][-1]
    assert scored["eval/validation/modality/image/loss"] > 0
    assert "eval/validation/bits_per_byte" not in scored  # codes have no bytes of text
    capsys.readouterr()
    assert data(["at", str(tmp_path / "run1"), "step=2"]) == 0
    shown = capsys.readouterr().out
    assert "[audio, " in shown
    assert "[image, " in shown
    assert "<|audio:" not in shown
    assert data(["show", str(prepared / "train"), "4"]) == 0
    assert "[audio, 48 codes: 0:" in capsys.readouterr().out
    folder = tmp_path / "exported"
    assert banyan(["export", f"run.dir={tmp_path / 'run1'}", f"export.output={folder}"]) == 0
    config = json.loads((folder / "config.json").read_text())
    assert config["modalities"]["image"] == {"first": 336, "codes": 32, "books": 1, "begin": 334, "end": 335}
    assert config["vocab_size"] == 368
    assert find_init_folder(str(folder)).architecture["vocab_size"] == 368
    tokens = torch.tensor([[305, 334, 336]])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.from_pretrained(folder)(tokens).logits.shape == (1, 3, 368)
    assert AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens([305]) == ["<|audio:0:3|>"]


def test_arrays_tables_and_text_alone_have_one_vocabulary(prepared, tmp_path):
    """An .npy file a document, a column of lists, and plain text that is prepared with the same tokenizer."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    codes = tmp_path / "codes"
    codes.mkdir()
    for number in range(4):
        np.save(codes / f"{number}.npy", np.array(tone(number), np.int16))
    assert prepare_segments(codes, tmp_path / "arrays", {"audio": AUDIO}, validation_fraction=0.0) == 0
    assert {len(ids) for ids in documents(tmp_path / "arrays" / "train").values()} == {50}
    table = pyarrow.table({"text": ["one", "two"], "image": [picture(1), picture(2)], "speaker": ["a", "b"]})
    parquet.write_table(table, tmp_path / "table.parquet")
    changes = {"validation_fraction": 0.0, "tokenizer": configure("", "").data.tokenizer}
    changes["tokenizer"].path = str(prepared)
    assert prepare_segments(tmp_path / "table.parquet", tmp_path / "table", **changes) == 0
    assert main(configure(write(tmp_path / "plain.txt"), tmp_path / "plain", tokenizer=changes["tokenizer"])) == 0
    shas = {read_manifest(folder / "train").tokenizer_sha256 for folder in (prepared, tmp_path / "table")}
    assert shas == {read_manifest(tmp_path / "plain" / "train").tokenizer_sha256}


def write(path):
    path.write_text("some text\n" * 40)
    return path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"text": "a", "image": [1, 32]}, "bad.jsonl, line 2: segment 2, image: code 32 is outside 0 to 31; mend"),
        ({"image": [-1]}, "code -1 is outside 0 to 31"),
        ({"image": [1.5]}, "codes are whole numbers (time,)"),
        ({"image": ["x"]}, "codes are whole numbers (time,)"),
        ({"image": []}, "codes are whole numbers (time,)"),
        ({"image": [2**70]}, "codes are whole numbers (time,)"),
        ({"audio": [1, 2]}, "segment 1, audio: codes are whole numbers (time, 2)"),
        ({"audio": [[1, 2], [3]]}, "codes are whole numbers (time, 2)"),
        ({"audio": [[1, 16]]}, "code 16 is outside 0 to 15"),
        ({"segments": [{"video": [1]}]}, "segment 1, 'video': neither a text nor a modality of text, audio, image"),
        ({"segments": [{"text": "a", "image": [1]}]}, "segment 1 isn't an object with one field"),
        ({"segments": "a"}, "segments is no list"),
        ({"other": "a"}, "neither segments nor any of the fields text, audio, image"),
    ],
)
def test_a_record_that_is_none_is_refused_by_its_place_or_counted(tmp_path, line, said):
    file = tmp_path / "bad.jsonl"
    file.write_text(json.dumps({"text": "good", "image": [1]}) + "\n" + json.dumps(line) + "\n")
    with pytest.raises(InputError) as refused:
        prepare_segments(file, tmp_path / "out", validation_fraction=0.0)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert prepare_segments(file, tmp_path / "out", validation_fraction=0.0, bad_records="reject") == 0
    manifest = read_manifest(tmp_path / "out" / "train")
    assert (manifest.documents, sum(manifest.rejected.values())) == (1, 1)


def test_hostile_arrays_are_refused_and_nothing_is_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}, print], object), allow_pickle=True)
    np.save(tmp_path / "floats.npy", np.ones(3))
    np.save(tmp_path / "several.npy", np.ones((2, 2, 2), np.int64))
    (tmp_path / "short.npy").write_bytes((tmp_path / "floats.npy").read_bytes()[:-8])
    (tmp_path / "text.npy").write_text("no array")
    for name, said in (
        ("objects", "no .npy array of plain numbers"),
        ("floats", "codes are whole numbers"),
        ("several", "codes are whole numbers"),
        ("short", "another size than the .npy header says"),
        ("text", "no .npy array"),
    ):
        with pytest.raises(InputError, match=f"{name}.npy, record 1.*{said}"):
            prepare_segments(tmp_path / f"{name}.npy", tmp_path / "out", {"image": IMAGE})
    np.save(tmp_path / "two.npy", np.ones(3, np.int64))
    with pytest.raises(InputError, match="doesn't say which modality it is of audio, image"):
        prepare_segments(tmp_path / "two.npy", tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "jsonl"}, "data.format=segments and data.modalities go together"),
        ({"modalities": {}}, "data.format=segments and data.modalities go together"),
        ({"modalities": {"text": IMAGE}}, "data.modalities.text: a name is"),
        ({"modalities": {"Ab": IMAGE}}, "data.modalities.Ab: a name is"),
        ({"modalities": {"a": Modality()}}, "data.modalities.a.codes is not set"),
        ({"modalities": {"a": Modality(codes=2**21)}}, "2,097,152 codes in all; 1,048,576 is the most"),
    ],
)
def test_settings_that_name_no_modality_are_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError) as refused:
        prepare_segments(write(tmp_path / "a.jsonl"), tmp_path / "out", **changes)
    assert said in str(refused.value)


def test_a_tokenizer_with_other_codes_is_refused(prepared, tmp_path):
    tokenizer = configure("", "").data.tokenizer
    tokenizer.path = str(prepared)
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"text": "a", "audio": [[1, 2, 3]]}))
    with pytest.raises(InputError, match=r"has tokens of the modality audio, but not as data.modalities.audio"):
        prepare_segments(
            file, tmp_path / "out", {"audio": Modality(codes=16, books=3)}, tokenizer=tokenizer, validation_fraction=0.0
        )
