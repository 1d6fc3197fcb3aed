"""explain.json: what was read off a prompt, for programs. docs/EXPLAIN.md has its fields by example.

Numbers have seven significant digits. `text` is what a token stands for, `token` how the vocabulary spells it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trainer.explain.readings import HeadMap, Likely, Readings
from trainer.explain.token_text import TokenTexts

FORMAT = "banyan-explain-1"


def as_record(readings: Readings, texts: TokenTexts, *, prompt: str, model: dict[str, Any]) -> dict[str, Any]:
    """The content of explain.json."""

    def named(number: int) -> dict[str, Any]:
        return {"id": number, "token": texts.raw(number), "text": texts.text(number)}

    def top(likely: Iterable[Likely]) -> list[dict[str, Any]]:
        return [{**named(each.id), "probability": rounded(each.probability)} for each in likely]

    return {
        "format": FORMAT,
        "model": model,
        "prompt": prompt,
        "tokens": [
            {
                "position": position,
                **named(reading.id),
                "loss": rounded(reading.loss),
                "entropy": rounded(reading.entropy),
                "rank": reading.rank,
                "gradient_x_input": rounded(reading.gradient_x_input),
                "gradient_norm": rounded(reading.gradient_norm),
            }
            for position, reading in enumerate(readings.tokens)
        ],
        "next": {"entropy": rounded(readings.next_entropy), "top": top(readings.next)},
        "target": {
            "position": readings.target.position,
            **named(readings.target.id),
            "loss": rounded(readings.target.loss),
        },
        "lens": {
            "first_position": readings.first,
            "layers": [
                {"layer": layer.layer, "kl": [rounded(kl) for kl in layer.kl], "top": [top(each) for each in layer.top]}
                for layer in readings.lens
            ],
        },
        "attention": {
            "first_position": readings.map_first,
            "layers": [
                {"layer": number, "heads": [_head(head) for head in heads]} for number, heads in readings.maps.items()
            ],
        },
    }


def _head(head: HeadMap) -> dict[str, Any]:
    return {
        "rows": [[rounded(value) for value in row] for row in head.rows],
        "earlier": [rounded(v) for v in head.earlier],
    }


def rounded(number: float | None) -> float | None:
    """A number with seven significant digits, as many as fp32 has."""
    return None if number is None else float(f"{number:.7g}")
