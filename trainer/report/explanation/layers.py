"""The parts of an explanation's page that go by layers: logit lens, where the last token looks, attention maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from trainer.report.explanation.picture import map_as_uri
from trainer.report.frame import note, section
from trainer.report.markup import Markup, bar, element, table

MOST_CELLS = 6000  # of a table of layers by tokens
MOST_HEADS = 1024  # whose maps are shown; where there are more, of layers at even distances
OPEN_LAYERS = 12  # up to so many, the table of them is open
Record = dict[str, Any]


def visible(text: str) -> str:
    """A token's text in a line, its blanks seen."""
    text = text.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")
    lead, trail = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    middle = text.strip(" ")
    return "␣" * lead + middle + "␣" * (trail if middle else 0)


def _cells(label: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> Markup:
    """A table of layers by tokens; a cell is its text, its share of colour, and what it says when it is pointed at."""
    inner = element(
        "table",
        {"class": "cells"},
        element(
            "thead",
            None,
            element("tr", None, element("th", None, "layer"), [element("th", {"title": t}, t) for t in head]),
        ),
        element(
            "tbody",
            None,
            [
                element(
                    "tr",
                    None,
                    element("th", {"scope": "row"}, name),
                    [element("td", {"style": f"--p:{share:.2f}", "title": said}, text) for text, share, said in cells],
                )
                for name, cells in rows
            ],
        ),
    )
    return element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": label}, inner)


def lens_section(record: Record) -> Iterator[Markup]:
    """What each layer would predict."""
    layers, tokens = record["lens"]["layers"], record["tokens"]
    shown = min(len(layers[0]["kl"]), max(1, MOST_CELLS // len(layers)))
    rows = []
    for layer in reversed(layers):
        cells = [
            (visible(top[0]["text"]), top[0]["probability"], _lens_says(top, kl))
            for top, kl in zip(layer["top"][-shown:], layer["kl"][-shown:], strict=True)
        ]
        rows.append(("embedding" if layer["layer"] == 0 else str(layer["layer"]), cells))
    means = [
        [("embedding" if layer["layer"] == 0 else f"layer {layer['layer']}"), f"{mean:.4f}", bar(mean / most, "other")]
        for layer, mean, most in _mean_kl(layers)
    ]
    yield section(
        "Logit lens",
        note(
            "What each layer would predict if it were the last: its likeliest token, the stronger the colour the "
            f"likelier, after the token at the head of the column. {_of_last(shown, tokens)}"
        ),
        _cells("Logit lens: layers by tokens", [visible(token["text"]) for token in tokens[-shown:]], rows),
        element(
            "details",
            {"open": ""} if len(layers) <= OPEN_LAYERS else None,
            element("summary", None, "How far each layer is from the last"),
            table(["Layer", "KL in nats", ""], means),
            note("KL(last layer ‖ layer), the mean over these tokens."),
        ),
    )


def _mean_kl(layers: list[Record]) -> list[tuple[Record, float, float]]:
    means = [sum(layer["kl"]) / len(layer["kl"]) for layer in layers]
    return [(layer, mean, max(means) or 1.0) for layer, mean in zip(layers, means, strict=True)]


def _lens_says(top: list[Record], kl: float) -> str:
    likely = ", ".join(f"{visible(each['text'])} {each['probability']:.1%}" for each in top[:5])
    return f"{likely}; KL {kl:.4f}"


def _of_last(shown: int, tokens: Sequence[Record]) -> str:
    return "" if shown >= len(tokens) else f"Of the last {shown:,} tokens of {len(tokens):,}."


def last_token_section(record: Record) -> Iterator[Markup]:
    """Attention of the last token, by layer."""
    layers, tokens = record["attention"]["layers"], record["tokens"]
    if not layers:
        return
    width = len(layers[0]["heads"][0]["rows"])
    shown = min(width, max(1, MOST_CELLS // len(layers)))
    rows = []
    for layer in reversed(layers):
        lasts = [head["rows"][-1] for head in layer["heads"]]
        means = [sum(values) / len(lasts) for values in zip(*lasts, strict=True)][-shown:]
        rows.append((str(layer["layer"]), [(f"{mean:.0%}", mean**0.5, f"{mean:.4f}") for mean in means]))
    yield section(
        "Where the last token looks",
        note(f"Attention of the last token, the mean of a layer's heads. {_of_last(shown, tokens)}"),
        _cells("Attention of the last token", [visible(token["text"]) for token in tokens[-shown:]], rows),
    )


def map_section(record: Record) -> Iterator[Markup]:
    """A map of each head."""
    layers, first = record["attention"]["layers"], record["attention"]["first_position"]
    if not layers:
        yield section("Attention", note("No maps: the model has no attention, or they would take too much memory."))
        return
    stride = -(-sum(len(layer["heads"]) for layer in layers) // MOST_HEADS)
    shown = layers[::stride]
    notes = [
        "A row is a token, from the first above to the last below; a column is where it looks. The stronger the "
        "colour, the more (by square roots). Click, touch or tab to a map to enlarge it."
    ]
    if first:
        width = len(record["tokens"]) - first
        notes.append(f" Of the last {width:,} tokens; the column on the left is all that is before them.")
    if stride > 1:
        notes.append(f" Of every {stride}th layer; explain.json has them all.")
    yield section(
        "Attention",
        note(notes),
        [
            element(
                "details",
                {"open": ""} if place < 4 or len(shown) <= 8 else None,
                element("summary", None, f"Layer {layer['layer']}"),
                element(
                    "div",
                    {"class": "heads"},
                    [_map(layer["layer"], n, head, first) for n, head in enumerate(layer["heads"])],
                ),
            )
            for place, layer in enumerate(shown)
        ],
    )


def _map(layer: int, number: int, head: Record, first: int) -> Markup:
    shares = _shares(head, first)
    said = " · ".join(f"{what} {share:.0%}" for what, share in shares)
    uri = map_as_uri(head["rows"], head["earlier"] if first else None)
    return element(
        "figure",
        {"class": "head", "tabindex": "0"},
        element("img", {"alt": f"Attention of layer {layer}, head {number}: {said}", "src": uri, "loading": "lazy"}),
        element("figcaption", None, f"head {number}: {said}" if said else f"head {number}"),
    )


def _shares(head: Record, first: int) -> list[tuple[str, float]]:
    """How much goes to some places, the mean over all tokens but the first."""
    rows = list(enumerate(head["rows"]))[0 if first else 1 :]
    if not rows:
        return []
    start = (
        ("earlier", sum(head["earlier"]) / len(rows))
        if first
        else ("first", sum(row[0] for _, row in rows) / len(rows))
    )
    previous = [row[place - 1] for place, row in rows if place > 0]
    itself = sum(row[place] for place, row in rows) / len(rows)
    return [start, ("previous", sum(previous) / max(1, len(previous))), ("itself", itself)]
