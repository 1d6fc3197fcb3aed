"""The watermark: marked ids are found, others aren't, and it is Hugging Face's own."""

import pytest
import torch

from trainer.config.guards import Guards
from trainer.errors import BanyanError, ConfigError
from trainer.serve.watermark import Mark, favour, mark_of

VOCABULARY = 500


@pytest.fixture(scope="module")
def mark():
    return mark_of(Guards(watermark=True, watermark_key=4711), VOCABULARY)


def drawn(mark, count, seed):
    """Tokens drawn from random logits, with the mark or without one."""
    draw = torch.Generator().manual_seed(seed)
    processor, ids = mark and mark.processor(), [1]
    for _ in range(count):
        logits = torch.randn(VOCABULARY, generator=draw)
        logits = favour(processor, ids, logits) if processor else logits
        ids.append(int(torch.multinomial(logits.softmax(0), 1, generator=draw)))
    return ids


def test_marked_tokens_are_found_and_others_are_not(mark):
    detector = mark.detector()
    marked, plain = detector.read(drawn(mark, 200, seed=1)), detector.read(drawn(None, 200, seed=1))
    assert marked.z > 8
    assert marked.p < 1e-12
    assert abs(plain.z) < 3
    assert abs(plain.favoured / plain.pairs - mark.fraction) < 0.12
    assert abs(Mark(4712, 2.0, 0.25, VOCABULARY).detector().read(drawn(mark, 200, seed=1)).z) < 3


def test_the_detector_reads_what_transformers_generates(mark):
    transformers = pytest.importorskip("transformers")
    from tests.hugging_face import make_model

    model = make_model("llama", vocab_size=VOCABULARY, initializer_range=0.02)
    config = transformers.WatermarkingConfig(**mark.settings)
    torch.manual_seed(0)
    start = torch.tensor([[1, 2, 3]])
    ids = model.generate(start, watermarking_config=config, do_sample=True, max_new_tokens=100, min_new_tokens=100)
    assert mark.detector().read(ids[0, 3:].tolist()).z > 4


def test_a_repeated_pair_counts_once(mark):
    detector = mark.detector()
    assert detector.read([1, 2] * 100).pairs == 2


def test_it_is_off_by_default():
    assert mark_of(Guards(), VOCABULARY) is None


def test_the_reading_is_that_of_hugging_faces_detector_as_it_is(mark):
    transformers = pytest.importorskip("transformers")
    ids, config = drawn(mark, 60, seed=2), transformers.PreTrainedConfig(vocab_size=VOCABULARY, bos_token_id=-1)
    theirs = transformers.WatermarkDetector(config, "cpu", mark.settings, ignore_repeated_ngrams=True)
    found, ours = theirs(torch.tensor([ids]), return_dict=True), mark.detector().read(ids)
    assert (ours.pairs, ours.favoured) == (found.num_tokens_scored[0], found.num_green_tokens[0])
    assert (ours.z, ours.p) == (pytest.approx(found.z_score[0]), pytest.approx(found.p_value[0]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tests.hf_folder import make_folder

    path = tmp_path_factory.mktemp("marked") / "model"
    make_folder(path, max_position_embeddings=1024)
    return path


def answered(folder, settings):
    """What the engine answers, with serve's own choice of what it is opened with."""
    import asyncio

    from trainer.config.serve import ServeSettings
    from trainer.data.tokens.tokenizer import load_tokenizer
    from trainer.serve.choose import choose_engine, open_engine
    from trainer.serve.engines.engine import Ask, EngineSettings
    from trainer.serve.model_folder import ModelFolder

    served, model = ServeSettings(**settings), ModelFolder(folder, "model")
    tokenizer, chosen = load_tokenizer(folder), choose_engine(served, model)
    wanted = EngineSettings(folder, chosen.precision, 1024, 2, 4, 1)
    engine, chosen = open_engine(chosen, served, model, tokenizer, wanted, folder / "log")
    assert chosen.engine == "torch"

    async def text():
        ask = Ask(tokenizer.encode("the tree"), 200, frozenset(), seed=3)
        return "".join([piece.text async for piece in engine.answer(ask)])

    try:
        return asyncio.run(text())
    finally:
        engine.close()


def detect(capsys, *arguments):
    from trainer.serve.commands.detect import main

    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_what_a_server_answers_is_found_by_the_command(folder, tmp_path, capsys):
    marked = {"engine": "auto", "watermark": True, "watermark_key": 99}
    (tmp_path / "marked.txt").write_text(answered(folder, marked), encoding="utf-8")
    (tmp_path / "plain.txt").write_text(answered(folder, {"engine": "torch"}), encoding="utf-8")
    files = {name: f"text={tmp_path / name}.txt" for name in ("marked", "plain")}
    said = detect(capsys, files["marked"], f"path={folder}", "serve.watermark_key=99")
    assert said.startswith("marked: ")
    assert detect(capsys, files["plain"], f"path={folder}", "serve.watermark_key=99").startswith("no mark found: ")
    assert detect(capsys, files["marked"], f"path={folder}").startswith("no mark found: ")  # by another key


def test_engines_that_cannot_mark_are_refused(folder):
    from trainer.config.serve import ServeSettings
    from trainer.serve.choose import choose_engine
    from trainer.serve.model_folder import ModelFolder

    with pytest.raises(ConfigError, match=r"serve.watermark=true with serve.engine=llama_cpp.*use serve.engine=torch"):
        choose_engine(ServeSettings(engine="llama_cpp", watermark=True), ModelFolder(folder, "model"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["path=FOLDER"], "give text=FILE"),
        (["text=FOLDER/absent", "path=FOLDER"], "can't be read"),
        (["text=FOLDER/short", "path=FOLDER"], "give 16 at least"),
        (["text=FOLDER/short", "path=FOLDER/absent"], "no config.json with a vocab_size"),
        (["text=FOLDER/short", "path=FOLDER", "z=many"], "z=many: must be a number"),
        (["text=FOLDER/short", "path=FOLDER", "colour=red"], "colour=red: it takes text"),
    ],
)
def test_the_command_says_what_is_wrong(folder, arguments, said):
    from trainer.serve.commands.detect import main

    (folder / "short").write_text("tree")
    with pytest.raises(BanyanError, match=said):
        main([argument.replace("FOLDER", str(folder)) for argument in arguments])
