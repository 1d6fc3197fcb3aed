"""`banyan explain`: looks inside a model, of a run or a Hugging Face folder.

banyan explain run.dir=runs/NAME prompt="the tree grows"            logit lens, attention, losses, gradients: a page
banyan explain run.dir=runs/NAME prompt="the tree" target=" grows"   gradients of the loss of a token that would follow
banyan explain neighbours run.dir=runs/NAME word=tree               tokens with like embeddings
banyan explain similarity path=HF_FOLDER a="a tree" b="some wood"   of two texts
banyan explain retrieval path=HF_FOLDER pairs=FILE                  recall@k of sentence embeddings
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.config import Explain
from trainer.config.values import check_values
from trainer.data.tokens.tokenizer import FILE as TOKENIZER
from trainer.errors import ConfigError, InputError, require
from trainer.explain.inside import open_inside
from trainer.explain.neighbours import nearest_tokens
from trainer.explain.pairs import read_pairs
from trainer.explain.readings import read_prompt
from trainer.explain.record import as_record, rounded
from trainer.explain.retrieval import ranks_of_positives, retrieval_metrics
from trainer.explain.similarity import cosine_similarity, pearson_similarity
from trainer.explain.text_model import HIDDEN, INPUT, TextModel, of_encoder, of_language_model
from trainer.explain.token_text import TokenTexts
from trainer.machine.durable import json_bytes, make_folder, storage_errors, write_together
from trainer.machine.hub_name import local_folder
from trainer.machine.terminal import one_line, show
from trainer.model.hugging_face.encoder import is_encoder
from trainer.model.hugging_face.folder import CONFIG
from trainer.model.hugging_face.headed import Seq2SeqLM
from trainer.model.lstm import LSTM
from trainer.report.explanation.page import explanation_as_html
from trainer.run.speaker import Speaker, open_speaker

RECORD, PAGE = "explain.json", "explain.html"


def main(config: Explain) -> int:
    """The verb: the command that was named."""
    check_values(config)
    with torch.no_grad():
        return COMMANDS[config.command](config)


def explain_prompt(config: Explain) -> int:
    """Reads a prompt inside the model, and writes explain.json and explain.html."""
    require(bool(config.prompt), 'prompt is empty: give a text to read, as prompt="the tree grows".')
    require(
        config.target is None or config.target_position is None,
        "target and target_position are both set: the loss of one token is differentiated.",
    )
    folder = _hugging_face_folder(config)
    if folder is not None and is_encoder(folder):
        raise InputError(
            f"path={config.path}: an encoder, by its config.json: it predicts no next token; explain neighbours, "
            "similarity and retrieval take it."
        )
    speaker = _open(config)
    name = _name_of(config)
    prompt = config.prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    ids = _prompt_ids(speaker, prompt, name)
    target = _target(config, speaker, ids)
    inside = open_inside(speaker.model.requires_grad_(False), name)
    readings = read_prompt(inside, ids, window=config.tokens, top_k=config.top_k, target=target, name=name)
    record = as_record(readings, TokenTexts(speaker.tokenizer), prompt=prompt, model=speaker.described)
    output = _output(config, speaker.described, prompt, config.target, config.target_position)
    page = explanation_as_html(record, name=speaker.tokenizer.name if folder is None else folder.resolve().name)
    _write(output, {RECORD: json.dumps(record, separators=(",", ":")).encode() + b"\n", PAGE: page.encode()})
    _say(record, output)
    return 0


def explain_neighbours(config: Explain) -> int:
    """Prints the tokens whose embeddings are nearest to a word's."""
    model = _open_text_model(config)
    ids = model.word_ids("word", config.word)
    embedding = INPUT if config.embedding == "auto" else config.embedding
    table = model.table(embedding)
    if max(ids) >= len(table):
        raise InputError(
            f"word={config.word}: token {max(ids)} has no row in the {embedding} embedding of {model.name}."
        )
    known = min(len(table), model.tokenizer.vocab_size)
    found = nearest_tokens(table, ids, known=known, top_k=config.top_k, sort=config.sort, word=config.word)
    texts = TokenTexts(model.tokenizer)
    parts = ", ".join(f"{texts.text(number)!r}" for number in ids)
    mean = f"{len(ids)} tokens ({parts}), whose vectors are averaged" if len(ids) > 1 else f"1 token ({parts})"
    show(one_line(f"{config.word}: {mean}; {embedding} embedding, {known:,} tokens of {table.shape[1]:,} numbers"))
    for number, each in enumerate(found, start=1):
        values = f"cosine {each.cosine:7.4f}  pearson {each.pearson:7.4f}"
        show(one_line(f"{number:4}  {values}  {texts.text(each.id)!r} (id {each.id})"))
    if config.output is not None:
        neighbours = [
            {"id": each.id, "token": texts.raw(each.id), "text": texts.text(each.id)}
            | {"cosine": _number(each.cosine), "pearson": _number(each.pearson)}
            for each in found
        ]
        content = {"word": config.word, "ids": ids, "embedding": embedding, "neighbours": neighbours}
        _write(Path(config.output).expanduser(), {"neighbours.json": json_bytes(content)})
    return 0


def explain_similarity(config: Explain) -> int:
    """Prints how alike two texts are."""
    for key in ("a", "b"):
        require(bool(getattr(config, key)), f'{key} is empty: give two texts, as a="a tree" b="some wood".')
    model = _open_text_model(config)
    embedding = HIDDEN if config.embedding == "auto" else config.embedding
    for key in ("a", "b"):
        model.ids_of(key, getattr(config, key))
    found = model.embed([config.a, config.b], embedding, config.batch_size)
    one, other = found.vectors
    cosine, pearson = (float(measure(one, other[None])[0]) for measure in (cosine_similarity, pearson_similarity))
    show(f"cosine {cosine:.6f}, pearson {pearson:.6f} ({_vectors_in_words(embedding)})")
    _say_cut(found.cut, model)
    if config.output is not None:
        content: dict[str, Any] = {"a": config.a, "b": config.b, "embedding": embedding}
        content |= {"cosine": _number(cosine), "pearson": _number(pearson)}
        _write(Path(config.output).expanduser(), {"similarity.json": json_bytes(content)})
    return 0


def explain_retrieval(config: Explain) -> int:
    """Measures how well queries find their positives, prints it and writes retrieval.json."""
    require(config.pairs is not None, 'pairs is not set: give JSON lines, each {"query": text, "positive": text}.')
    require(
        bool(config.recall_at) and all(k >= 1 for k in config.recall_at),
        "recall_at: give ranks from 1 on, as [1,5,10].",
    )
    pairs = read_pairs(Path(str(config.pairs)).expanduser())
    model = _open_text_model(config)
    embedding = HIDDEN if config.embedding == "auto" else config.embedding
    texts = {text: number for number, text in enumerate(dict.fromkeys(pairs.positives))}
    queries = model.embed(pairs.queries, embedding, config.batch_size)
    corpus = model.embed(list(texts), embedding, config.batch_size)
    ranks = ranks_of_positives(queries.vectors, corpus.vectors, pairs.queries, [texts[t] for t in pairs.positives])
    metrics = retrieval_metrics(ranks, sorted(set(config.recall_at)))
    show(f"{len(ranks):,} queries, {len(texts):,} distinct texts ({_vectors_in_words(embedding)})")
    for name, (value, error) in metrics.items():
        show(f"{name:10} {value:.4f} ± {error:.4f}")
    _say_cut(queries.cut + corpus.cut, model)
    results = [
        {"task": "retrieval", "version": 1, "metric": name, "value": value, "stderr": error, "n": len(ranks)}
        | {"model": model.described, "embedding": embedding, "fingerprint": pairs.sha256}
        for name, (value, error) in metrics.items()
    ]
    output = _output(config, model.described, pairs.sha256, embedding)
    _write(output, {"retrieval.json": json_bytes(results)})
    show(one_line(f"results    {output / 'retrieval.json'}"))
    return 0


COMMANDS: dict[str, Callable[[Explain], int]] = {
    "prompt": explain_prompt,
    "neighbours": explain_neighbours,
    "similarity": explain_similarity,
    "retrieval": explain_retrieval,
}

# ------------------------------------------------------------------------------------------------------ the model


def _hugging_face_folder(config: Explain) -> Path | None:
    """The folder that `path` names, which is there and has a tokenizer; None for a run."""
    require(
        (config.run.dir is None) != (config.path is None),
        "run.dir and path: give one of them, a run directory or a Hugging Face folder.",
    )
    if config.path is None:
        return None
    folder = local_folder(config.path)
    for name, mend in (
        (CONFIG, "give the folder of a Hugging Face model, or run.dir"),
        (TOKENIZER, "fetch it as well"),
    ):
        if not (folder / name).is_file():
            raise ConfigError(f"path={config.path}: no {name} there; {mend}.")
    return folder


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _open(config: Explain) -> Speaker:
    """The model with weights in fp32, as an export has them. InputError where it has no layers of attention alone."""
    speaker = open_speaker(config.run, config.checkpoint, config.path, device=_device(), dtype=torch.float32)
    if isinstance(speaker.model, LSTM):
        raise InputError(f"{_name_of(config)}: an LSTM; what is inside such a model isn't known to explain.")
    if isinstance(speaker.model, Seq2SeqLM):
        raise InputError(
            f"{_name_of(config)}: an encoder–decoder, which predicts no next token of a text; banyan export writes a "
            "folder that explain neighbours, similarity and retrieval take (path=FOLDER)."
        )
    return speaker


def _open_text_model(config: Explain) -> TextModel:
    folder = _hugging_face_folder(config)
    if folder is not None and is_encoder(folder):
        return of_encoder(folder, _device())
    speaker = _open(config)
    return of_language_model(
        speaker.model,
        speaker.tokenizer,
        longest=speaker.context_length,
        name=_name_of(config),
        as_hugging_face=speaker.as_hugging_face,
        described=speaker.described,
    )


def _name_of(config: Explain) -> str:
    return f"run.dir={config.run.dir}" if config.path is None else f"path={config.path}"


def _prompt_ids(speaker: Speaker, prompt: str, name: str) -> list[int]:
    if not speaker.tokenizer.encode(prompt):
        raise InputError(f"prompt: the tokenizer of {name} makes no token of it; give another text.")
    ids = speaker.prompt_ids(prompt)
    if len(ids) > speaker.context_length:
        raise InputError(
            f"prompt: {len(ids):,} tokens, but the model of {name} sees {speaker.context_length:,} at most; shorten it."
        )
    rows = _rows(speaker)
    if max(ids) >= rows:
        raise InputError(f"prompt: token {max(ids)}, but the embedding of {name} has {rows:,} rows.")
    return ids


def _rows(speaker: Speaker) -> int:
    inner: Any = speaker.model
    return len(
        inner.model.embed_tokens.weight if hasattr(inner, "model") else inner.inner.get_input_embeddings().weight
    )


def _target(config: Explain, speaker: Speaker, ids: list[int]) -> tuple[int, int] | None:
    """Position and id of the token whose loss is differentiated, where one was named."""
    if config.target is not None:
        found = speaker.tokenizer.encode(config.target)
        texts = TokenTexts(speaker.tokenizer)
        parts = ", ".join(repr(texts.text(number)) for number in found[:8])
        require(len(found) == 1, f"target={config.target}: is {len(found)} tokens ({parts}); give a text of one token.")
        return len(ids), found[0]
    position = config.target_position
    if position is None:
        return None
    require(
        position < len(ids),
        f"target_position={position}: the prompt's {len(ids)} tokens have the positions 0 to {len(ids) - 1}, and the "
        "first has no prediction.",
    )
    return position, ids[position]


# --------------------------------------------------------------------------------------------- what is said, written


def _output(config: Explain, *asked: Any) -> Path:
    """The folder to write; the same question to the same model has the same."""
    if config.output is not None:
        return Path(config.output).expanduser()
    digest = hashlib.sha256(json.dumps([config.command, *asked]).encode()).hexdigest()[:8]
    name = f"{config.command}-{digest}"
    return Path(str(config.run.dir)) / "explain" / name if config.path is None else Path("explain") / name


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    with storage_errors(folder):
        make_folder(folder)
        write_together(folder, contents)


def _say(record: dict[str, Any], output: Path) -> None:
    tokens, target = record["tokens"], record["target"]
    losses = [token["loss"] for token in tokens[1:]]
    mean = f"; {sum(losses) / len(losses):.4f} nats per token" if losses else ""
    show(one_line(f"prompt     {len(tokens):,} tokens{mean}"))
    likely = ", ".join(f"{each['text']!r} {each['probability']:.1%}" for each in record["next"]["top"][:5])
    show(one_line(f"next       {likely}"))
    strongest = max(tokens, key=lambda token: abs(token["gradient_x_input"] or 0.0))
    show(
        one_line(
            f"target     {target['text']!r} at {target['position']}, loss {target['loss']:.4f}; most by token "
            f"{strongest['position']}, {strongest['text']!r} (gradient x input {strongest['gradient_x_input']:+.4f})"
        )
    )
    lens, attention = record["lens"], record["attention"]
    if lens["first_position"]:
        show(f"lens       of the last {len(tokens) - lens['first_position']:,} tokens (tokens=N for more)")
    if not attention["layers"]:
        show("attention  left out: the model has none, or its maps of so many tokens would take too much memory")
    elif attention["first_position"] > lens["first_position"] or attention["first_position"]:
        show(f"attention  of the last {len(tokens) - attention['first_position']:,} tokens")
    show(one_line(f"page       {output / PAGE}"))
    show(one_line(f"values     {output / RECORD}"))


def _say_cut(cut: int, model: TextModel) -> None:
    if cut:
        show(f"{cut:,} texts are longer than the {model.longest:,} tokens that are seen; their rest was left off")


def _vectors_in_words(embedding: str) -> str:
    return "means of last hidden states" if embedding == HIDDEN else f"means of {embedding} embeddings"


def _number(value: float) -> float | None:
    """A value for JSON, which has no NaN."""
    return None if math.isnan(value) else rounded(value)
