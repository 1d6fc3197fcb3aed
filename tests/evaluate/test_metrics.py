"""Every metric equals the field's reference library, on random cases and on edges."""

import math
import random

import numpy as np
import pytest

from trainer.evaluate.metrics import bootstrap, calibration, classification, entities, squad
from trainer.evaluate.metrics.metric import METRICS, find_metric

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def labels(seed, classes, count=60):
    draw = random.Random(seed)
    return [(draw.choice(classes), draw.choice(classes)) for _ in range(count)]


@pytest.mark.parametrize("seed", range(6))
def test_classification_is_scikit_learn_s(seed):
    classes = [0, 1] if seed < 2 else [*["no", "perhaps", "yes"][: seed - 1], "never said"]
    values = labels(seed, classes)
    expected, predicted = zip(*values, strict=True)
    assert METRICS["accuracy"].aggregate(values) == sklearn_metrics.accuracy_score(expected, predicted)
    assert METRICS["mcc"].aggregate(values) == sklearn_metrics.matthews_corrcoef(expected, predicted)
    for name in ("precision", "recall", "f1"):
        function = getattr(sklearn_metrics, f"{name}_score")
        for average in ("micro", "macro"):
            wanted = function(expected, predicted, average=average, zero_division=0)
            assert METRICS[f"{name}_{average}"].aggregate(values) == wanted
        by_class = METRICS[f"{name}_by_class"].aggregate(values)
        order = sorted(set(expected + predicted))
        wanted = function(expected, predicted, labels=order, average=None, zero_division=0)
        assert by_class == dict(zip(map(str, order), wanted, strict=True))
        if seed < 2:
            assert METRICS[name].aggregate(values) == function(expected, predicted)
    found = classification.confusion_matrix(values)
    assert found["matrix"] == sklearn_metrics.confusion_matrix(expected, predicted, labels=found["labels"]).tolist()


TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER", "I-MISC"]


@pytest.mark.parametrize("seed", range(12))
def test_entities_are_seqeval_s(seed):
    reference = pytest.importorskip("seqeval.metrics")
    draw = random.Random(seed)
    expected = [draw.choices(TAGS, k=draw.randint(1, 14)) for _ in range(20)]
    predicted = [[draw.choice((tag, draw.choice(TAGS))) for tag in sentence] for sentence in expected]
    values = [(" ".join(found), [" ".join(wanted)]) for found, wanted in zip(predicted, expected, strict=True)]
    assert entities.entity_f1(values) == pytest.approx(reference.f1_score(expected, predicted), abs=1e-15)
    assert entities.entity_precision(values) == reference.precision_score(expected, predicted)
    assert entities.entity_recall(values) == reference.recall_score(expected, predicted)


def test_entities_without_any_have_no_score():
    assert entities.entity_f1([("O O", ["O O"])]) == 0.0
    assert entities.entity_f1([("", ["B-X I-X"])]) == 0.0  # the model said nothing
    assert entities.entity_f1([("B-X I-X O O O", ["B-X I-X"])]) == 1.0


TEXTS = [
    ("the cat sat on the mat", ["the cat sat on a mat"]),
    ("A dog, barking!", ["A dog barks.", "the dog is barking"]),
    ("", ["nothing came"]),
    ("猫坐在垫子上", ["一只猫坐在垫子上"]),
]


def test_bleu_chrf_and_rouge_are_those_of_their_libraries():
    sacrebleu = pytest.importorskip("sacrebleu")
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL"])
    predicted = [text for text, _ in TEXTS]
    streams = [[wanted[0] for _, wanted in TEXTS], [wanted[1] if len(wanted) > 1 else None for _, wanted in TEXTS]]
    assert METRICS["bleu"].aggregate(TEXTS) == sacrebleu.corpus_bleu(predicted, streams).score
    assert METRICS["chrf"].aggregate(TEXTS) == sacrebleu.corpus_chrf(predicted, streams).score
    for name in ("rouge1", "rouge2", "rougeL"):
        wanted = [max(scorer.score(each, text)[name].fmeasure for each in refs) for text, refs in TEXTS]
        assert METRICS[name].aggregate(TEXTS) == pytest.approx(sum(wanted) / len(wanted), abs=1e-15)


def test_answers_are_judged_as_by_squad_s_script():
    values = [("The Denver Broncos!", ["Denver Broncos", "Broncos"]), ("1,000 a year", ["1000"]), ("", [""])]
    assert squad.exact_match(values) == pytest.approx(2 / 3)
    assert squad.token_f1("the quick brown fox", "quick red fox") == pytest.approx(2 * 2 / 3 * 2 / 3 / (4 / 3))
    assert squad.token_f1("", "something") == 0.0
    assert squad.token_f1("a", "the") == 1.0  # nothing is left of either
    assert squad.normalize("An  ape's “theory”.") == "apes “theory”"


def test_calibration_error_of_known_cases():
    sure = [(0.95, True)] * 19 + [(0.95, False)]
    assert calibration.expected_error(sure) == pytest.approx(0.0, abs=1e-12)
    assert calibration.expected_error([(1.0, False)] * 4) == 1.0
    half = [(0.9, False), (0.9, True), (0.3, True), (0.3, False)]
    assert calibration.expected_error(half) == pytest.approx(0.5 * 0.4 + 0.5 * 0.2)


def test_a_metric_s_name_is_corrected():
    from trainer.errors import ConfigError

    with pytest.raises(ConfigError, match=r"x: f1macro: no such metric; did you mean f1_macro\?"):
        find_metric("f1macro", "x")


def test_intervals_cover_the_truth_as_often_as_they_say():
    generator = np.random.default_rng(0)
    hits = 0
    for number in range(200):
        values = (generator.random(120) < 0.3).astype(float).tolist()
        low, high = bootstrap.interval(bootstrap.resampled(values, None, 400, seed=number))
        hits += low <= 0.3 <= high
    assert 180 <= hits <= 199
    values = [0.0] * 70 + [1.0] * 30
    error = bootstrap.standard_error(values)
    assert error == pytest.approx(math.sqrt(0.3 * 0.7 / 99), rel=1e-12)
    assert bootstrap.resampled(values, None, 4000).std() == pytest.approx(error, rel=0.05)


def test_noise_is_told_from_a_difference_by_pairs():
    draw = random.Random(0)
    hard = [draw.random() < 0.5 for _ in range(400)]
    first = [float(each) for each in hard]
    same = bootstrap.compare_pairs(first, first, None, 1000)
    assert (same.value, same.low, same.high, same.is_more_than_noise) == (0.0, 0.0, 0.0, False)
    # 16 more right of 400: within the noise of either figure alone, which is 2.5 %, but every change is for the better
    better = [1.0 if index % 24 == 0 else value for index, value in enumerate(first)]
    found = bootstrap.compare_pairs(first, better, None, 2000)
    assert 0 < found.value < 2 * bootstrap.standard_error(first)
    assert found.is_more_than_noise
    assert found.p < 0.05
    chance = [float(draw.random() < 0.5) for _ in range(400)]
    assert not bootstrap.compare_pairs(
        chance, [float(draw.random() < 0.5) for _ in range(400)], None, 1000
    ).is_more_than_noise
    pairs = [(int(each), int(draw.random() < 0.9) if each else 0) for each in hard]
    by_pairs = bootstrap.compare_pairs(pairs, [(each, each) for each, _ in pairs], METRICS["f1"].aggregate, 100)
    assert by_pairs.value > 0
    assert by_pairs.is_more_than_noise
