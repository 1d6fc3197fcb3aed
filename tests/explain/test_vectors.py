"""Neighbours, similarity and retrieval: the values of numpy and scikit-learn on Hugging Face's own vectors."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from tests.corpus import write_texts
from tests.explain.encoder import make_encoder
from tests.hf_folder import make_folder
from tests.hugging_face import save_other
from trainer.config import Explain
from trainer.data.tokens.tokenizer import load_tokenizer
from trainer.errors import ConfigError, InputError
from trainer.explain.retrieval import ranks_of_positives, retrieval_metrics
from trainer.verbs.explain import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Our decoder, a Hugging Face decoder and an encoder, each with its model."""
    base = tmp_path_factory.mktemp("vectors")
    found = {"decoder": (base / "decoder", make_folder(base / "decoder", tie_word_embeddings=False))}
    found["gpt2"] = base / "gpt2", save_other(base / "gpt2", "gpt2")
    load_tokenizer(base / "decoder").save(base / "gpt2")
    (base / "encoder").mkdir()
    found["encoder"] = base / "encoder", make_encoder(base / "encoder")
    return found


def run(command, folder, output=None, **settings):
    return main(Explain(command=command, path=str(folder), output=output and str(output), **settings))


@torch.no_grad()
def theirs(folder, model, texts):
    """Mean-pooled vectors, one text at a time and so without padding, by transformers' own tokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    vectors = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=min(tokenizer.model_max_length, 64))[
            "input_ids"
        ]
        hidden = getattr(model, "base_model", model)(input_ids=ids).last_hidden_state[0]
        vectors.append(hidden.mean(dim=0).numpy())
    return np.stack(vectors)


@pytest.mark.parametrize("embedding", ["input", "output"])
def test_neighbours_are_those_of_the_hugging_face_embedding(folders, tmp_path, embedding, capsys):
    folder, model = folders["decoder"]
    assert run("neighbours", folder, tmp_path, word="trunkated", embedding=embedding, top_k=7) == 0
    found = json.loads((tmp_path / "neighbours.json").read_text())
    matrix = (model.model.embed_tokens if embedding == "input" else model.lm_head).weight.detach().numpy()
    ids = load_tokenizer(folder).encode("trunkated")
    assert len(ids) > 1
    assert f"trunkated: {len(ids)} tokens" in capsys.readouterr().out
    vector = matrix[ids].astype(np.float64).mean(axis=0)
    cosines = cosine_similarity(vector[None], matrix.astype(np.float64))[0]
    expected = [number for number in np.argsort(-cosines) if number not in ids][:7]
    assert [each["id"] for each in found["neighbours"]] == expected
    for each in found["neighbours"]:
        assert each["cosine"] == pytest.approx(cosines[each["id"]], abs=1e-6)
        assert each["pearson"] == pytest.approx(np.corrcoef(vector, matrix[each["id"]])[0, 1], abs=1e-6)


def test_sorted_by_pearson_they_are_the_nearest_by_that(folders, tmp_path):
    folder, _ = folders["encoder"]
    assert run("neighbours", folder, tmp_path, word="tree", sort="pearson", top_k=5) == 0
    values = [each["pearson"] for each in json.loads((tmp_path / "neighbours.json").read_text())["neighbours"]]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("kind", ["decoder", "gpt2", "encoder"])
def test_similarity_is_of_means_of_the_last_hidden_states(folders, tmp_path, kind):
    folder, model = folders[kind]
    a, b = "the tree grows", "quiet leaves on red stone"
    assert run("similarity", folder, tmp_path, a=a, b=b) == 0
    found = json.loads((tmp_path / "similarity.json").read_text())
    vectors = theirs(folder, model, [a, b])
    assert found["cosine"] == pytest.approx(cosine_similarity(vectors)[0, 1], abs=1e-5)
    assert found["pearson"] == pytest.approx(np.corrcoef(vectors)[0, 1], abs=1e-5)


@pytest.mark.parametrize("kind", ["decoder", "gpt2", "encoder"])
def test_recall_is_what_single_texts_give_however_they_are_batched(folders, tmp_path, kind):
    folder, model = folders[kind]
    texts = [text[:70] for text in write_texts(24, seed=3)]
    queries, positives = texts[:12], [*texts[12:23], texts[12]]  # the last is another's positive as well
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(
        "".join(json.dumps({"query": q, "positive": p}) + "\n" for q, p in zip(queries, positives, strict=True))
    )
    assert run("retrieval", folder, tmp_path / "out", pairs=str(pairs), batch_size=5, recall_at=[1, 3]) == 0
    found = {each["metric"]: each for each in json.loads((tmp_path / "out" / "retrieval.json").read_text())}
    scores = cosine_similarity(theirs(folder, model, queries), theirs(folder, model, positives[:11]))
    places = [*range(11), 0]
    ranks = np.array([1 + (scores[n] > scores[n, place]).sum() for n, place in enumerate(places)])
    assert found["recall@1"]["value"] == pytest.approx((ranks <= 1).mean())
    assert found["recall@3"]["value"] == pytest.approx((ranks <= 3).mean())
    assert found["mrr"]["value"] == pytest.approx((1 / ranks).mean())
    assert found["mrr"]["stderr"] == pytest.approx((1 / ranks).std(ddof=1) / 12**0.5)
    assert found["mrr"]["n"] == 12


def test_texts_that_are_too_long_are_cut_as_transformers_does(folders, tmp_path, capsys):
    folder, model = folders["encoder"]
    long = "the tree grows many trunks and every root finds water under red stone while rain falls on quiet leaves " * 2
    assert run("similarity", folder, tmp_path, a=long, b="water") == 0
    found = json.loads((tmp_path / "similarity.json").read_text())
    assert found["cosine"] == pytest.approx(cosine_similarity(theirs(folder, model, [long, "water"]))[0, 1], abs=1e-5)
    assert "1 texts are longer than the 24 tokens that are seen" in capsys.readouterr().out


def test_a_model_that_gives_all_texts_one_vector_finds_nothing():
    same = torch.ones(4, 8)
    ranks = ranks_of_positives(same, same, ["a", "b", "c", "d"], [0, 1, 2, 3])
    assert ranks.tolist() == [4, 4, 4, 4]
    assert retrieval_metrics(ranks, [1])["recall@1"] == (0.0, 0.0)


def test_other_positives_of_a_query_are_not_counted_against_it():
    query = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    texts = torch.tensor([[1.0, 0.1], [1.0, 0.2], [0.0, 1.0]])
    assert ranks_of_positives(query, texts, ["q", "q"], [0, 1]).tolist() == [1, 1]
    assert ranks_of_positives(query, texts, ["q", "r"], [0, 1]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("kind", "command", "settings", "says"),
    [
        (
            "encoder",
            "neighbours",
            {"word": "zebra"},
            r"word=zebra: the tokenizer of .* can't encode it: it makes \[UNK\]",
        ),
        ("encoder", "neighbours", {"word": "tree zebra"}, "word=tree zebra: .*knows only a part"),
        ("encoder", "neighbours", {"word": "tree", "embedding": "output"}, "embedding=output: .*has no head"),
        ("decoder", "neighbours", {"word": "tree", "embedding": "hidden"}, "embedding=hidden"),
        ("decoder", "neighbours", {}, "word is empty"),
        ("decoder", "similarity", {"a": "x"}, "b is empty"),
        ("decoder", "retrieval", {}, "pairs is not set"),
        ("decoder", "retrieval", {"pairs": "nowhere.jsonl"}, r"pairs=nowhere.jsonl: can't be read"),
        ("encoder", "prompt", {"prompt": "the tree"}, "an encoder, by its config.json"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(folders, kind, command, settings, says):
    with pytest.raises((ConfigError, InputError), match=says) as error:
        run(command, folders[kind][0], **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"query": "a"}', 'record 2: has no field "positive"'),
        ('{"query": 3, "positive": "b"}', 'record 2: "query" is no text'),
        ('{"query": "a", "positive": " "}', 'record 2: "positive" is no text, or an empty one'),
        ("[1]", "record 2: is no JSON object"),
        ("{", "record 2: not JSON"),
        ('{"query": "\\ud800", "positive": "b"}', "record 2: .*surrogate"),
    ],
)
def test_a_bad_pair_is_named(folders, tmp_path, line, says):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"query": "tree", "positive": "root"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=says) as error:
        run("retrieval", folders["encoder"][0], tmp_path / "out", pairs=str(pairs))
    assert str(pairs) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
