"""An explanation as one HTML page that needs nothing else: no script, no request. It is made of explain.json's content.

The page is bounded, however long the prompt: what is left out is said, and is in explain.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from trainer.report.explanation.layers import (
    Record,
    last_token_section,
    lens_section,
    map_section,
    visible,
)
from trainer.report.explanation.style import STYLE
from trainer.report.frame import note, page, section, tiles
from trainer.report.markup import Content, Markup, bar, element, table

MOST_TOKENS = 2000  # of strips and the table of tokens, the last ones
OPEN_TOKENS = 64  # up to so many, the table of them is open


def explanation_as_html(record: Record, *, name: str) -> str:
    """The whole page. `record` is explain.json's content, `name` the model's in a word."""
    parts = [*_top(record, name), *_losses(record), *_gradients(record), *_next(record), *lens_section(record)]
    parts += [*last_token_section(record), *map_section(record), *_tokens(record)]
    return page(f"Inside {name}", parts, style=STYLE, pictures=True)


def _key(kind: str) -> Markup:
    return element("span", {"class": f"key {kind}", "aria-hidden": "true"})


def _top(record: Record, name: str) -> Iterator[Markup]:
    tokens = record["tokens"]
    losses = [token["loss"] for token in tokens if token["loss"] is not None]
    yield element("h1", None, f"Inside {name}")
    yield note("What a language model makes of a prompt: ", *_model(record), ".")
    figures = [(f"{len(tokens):,}", "tokens")]
    if losses:
        mean = sum(losses) / len(losses)
        figures += [(f"{mean:.4f}", "nats per token"), (f"{math.exp(min(mean, 700)):,.2f}", "perplexity")]
        figures += [(f"{sum(t['rank'] == 1 for t in tokens) / len(losses):.0%}", "were the likeliest")]
    figures += [(f"{len(record['lens']['layers']) - 1:,}", "layers")]
    yield tiles(figures)


def _model(record: Record) -> list[Content]:
    facts: list[Content] = [element("code", None, str(value)) for value in record["model"].values()]
    return [piece for fact in facts for piece in (", ", fact)][1:]


# ------------------------------------------------------------------------------------------------- the prompt's strips


def _shown_tokens(record: Record) -> list[Record]:
    return list(record["tokens"][-MOST_TOKENS:])


def _left_out(record: Record) -> list[Markup]:
    more = len(record["tokens"]) - MOST_TOKENS
    return [note(f"The first {more:,} tokens are left out here; explain.json has them.")] if more > 0 else []


def _in_strip(text: str) -> str:
    return visible(text).replace("␣", " ").replace("⏎", "⏎\n") or " "


def _strip(
    kind: str, tokens: Sequence[Record], shares: Sequence[float], classes: Sequence[str], says: Sequence[str]
) -> Markup:
    return element(
        "div",
        {"class": f"strip {kind}", "tabindex": "0"},
        [
            element(
                "a",
                {
                    "class": f"token {extra}".strip(),
                    "href": f"#t{token['position']}",
                    "style": f"--p:{share:.2f}",
                    "title": f"{token['position']}: {visible(token['text'])}: {said}",
                },
                _in_strip(token["text"]),
            )
            for token, share, extra, said in zip(tokens, shares, classes, says, strict=True)
        ],
    )


def _losses(record: Record) -> Iterator[Markup]:
    tokens = _shown_tokens(record)
    most = max((token["loss"] or 0.0 for token in tokens), default=0.0) or 1.0
    shares = [(token["loss"] or 0.0) / most for token in tokens]
    says = ["no prediction" if token["loss"] is None else f"loss {token['loss']:.4f}" for token in tokens]
    yield section(
        "Loss of each token",
        note(
            _key("loss"),
            f"the stronger the colour, the less it was expected; up to {most:.2f} nats. ",
            "A token leads to its row below.",
        ),
        _strip("loss", tokens, shares, [""] * len(tokens), says),
        *_left_out(record),
    )


def _gradients(record: Record) -> Iterator[Markup]:
    tokens, target = _shown_tokens(record), record["target"]
    values = [token["gradient_x_input"] or 0.0 for token in tokens]
    most = max(map(abs, values), default=0.0) or 1.0
    classes = [
        ("raises" if value > 0 else "lowers") + " target" * (token["position"] == target["position"])
        for token, value in zip(tokens, values, strict=True)
    ]
    says = [
        "not before the target" if token["gradient_norm"] is None else f"gradient × input {value:+.4f}"
        for token, value in zip(tokens, values, strict=True)
    ]
    where = "after the prompt" if target["position"] >= len(record["tokens"]) else f"at position {target['position']}"
    yield section(
        "What a loss hangs on",
        element(
            "p",
            None,
            "The loss of ",
            element("code", None, visible(target["text"])),
            f" {where}, {target['loss']:.4f} nats, by gradient × input:",
        ),
        note(
            _key("raises"), "more of this token would raise the loss, ", _key("lowers"), f"lower it; up to {most:.4f}."
        ),
        _strip("gradient", tokens, [abs(value) / most for value in values], classes, says),
    )


def _next(record: Record) -> Iterator[Markup]:
    rows = [
        [
            element("code", None, visible(each["text"])),
            f"{each['id']}",
            f"{each['probability']:.2%}",
            bar(each["probability"]),
        ]
        for each in record["next"]["top"]
    ]
    yield section(
        "What comes next",
        table(["Token", "Id", "Probability", ""], rows),
        note(f"Entropy of the prediction: {record['next']['entropy']:.4f} nats."),
    )


# -------------------------------------------------------------------------------------------------------- all tokens


def _tokens(record: Record) -> Iterator[Markup]:
    tokens = _shown_tokens(record)
    head = ["", "Token", "Id", "Loss", "Entropy", "Rank", "Gradient × input", "Gradient norm"]
    rows = [
        element(
            "tr",
            {"id": f"t{token['position']}"},
            element("td", {"class": "soft"}, str(token["position"])),
            element("td", {"class": "text"}, visible(token["text"])),
            [element("td", {"class": "number"}, text) for text in _numbers(token)],
        )
        for token in tokens
    ]
    inner = element(
        "table",
        None,
        element(
            "thead",
            None,
            element("tr", None, [element("th", {"class": "number"} if n > 1 else None, h) for n, h in enumerate(head)]),
        ),
        element("tbody", None, rows),
    )
    scroll = element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "All tokens"}, inner)
    yield section(
        "All tokens",
        note(
            "Loss, entropy (nats) and rank are of the token's prediction from those before it; gradients are of the "
            "target's loss."
        ),
        element(
            "details",
            {"open": ""} if len(tokens) <= OPEN_TOKENS else None,
            element("summary", None, f"{len(tokens):,} tokens"),
            scroll,
        ),
        *_left_out(record),
    )


def _numbers(token: Record) -> list[str]:
    def shown(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    return [
        str(token["id"]),
        shown(token["loss"]),
        shown(token["entropy"]),
        shown(token["rank"], ","),
        shown(token["gradient_x_input"], "+.4f"),
        shown(token["gradient_norm"]),
    ]
