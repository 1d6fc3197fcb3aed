"""The watermark: marked ids are found, others aren't, and it is Hugging Face's own."""

import pytest
import torch

from trainer.config.guards import Guards
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
