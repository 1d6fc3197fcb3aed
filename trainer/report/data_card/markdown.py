"""The card as DATA_CARD.md: the same facts in tables and fenced blocks, nothing of the data can be markup."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trainer.data.text.progress import bytes_in_words
from trainer.machine.terminal import one_line, safe
from trainer.report.curves import readable_count
from trainer.report.data_card.card import DataCard, TextShare
from trainer.report.data_card.page import (
    MOST_LANGUAGES,
    NONE,
    NOTE_OF_TOKENS,
    binary_count,
    has_copies,
    note_of_clusters,
    tokens_in_words,
)

_MARKUP = re.compile(r"([\\`*_\[\]<>|~$&])")  # within a line: none begins with a text of others


def card_as_markdown(card: DataCard) -> str:
    """The whole file."""
    parts = [
        *_top(card),
        *_funnel(card),
        *_sources(card),
        *_languages(card),
        *_lengths(card),
        *_counts("Top domains", ("Domain", "Documents"), card.domains),
        *_clusters(card),
        *_counts("Changed", ("What", "Times"), card.changed),
        *_samples(card),
        *_made(card),
    ]
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """A text of others as Markdown that shows just this text, in one line."""
    return _MARKUP.sub(r"\\\1", one_line(text)).replace("\\<", "&lt;").replace("\\&", "&amp;")


def fenced(text: str) -> str:
    """A text of others as a block that nothing in it can end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{safe(text)}\n{fence}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    lines = [head, ["---" if place < texts else "---:" for place in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _top(card: DataCard) -> Iterator[str]:
    yield f"# {plain(card.name)}"
    yield (
        f"{card.documents:,} documents, {card.tokens:,} tokens, {bytes_in_words(card.bytes)} of text, "
        f"{card.tokens / max(1, card.bytes):.3f} tokens per byte: {card.distinct / max(1, card.documents_read):.1%} "
        f"of {card.documents_read:,} documents read. Tokenizer {plain(card.tokenizer)}, {card.vocabulary:,} tokens."
    )
    rows = [
        [
            plain(split.name),
            f"{split.documents:,}",
            f"{split.tokens:,}",
            bytes_in_words(split.bytes),
            f"{split.shards:,}",
            split.fingerprint,
        ]
        for split in card.splits
    ]
    yield _table(["Split", "Documents", "Tokens", "Text", "Shards", "Fingerprint"], rows)


def _funnel(card: DataCard) -> Iterator[str]:
    yield "## From what was read to what was kept"
    rows = [["read", "", "", f"{card.documents_read:,}", ""]]
    for stage in card.funnel:
        rows += [
            [plain(stage.name), plain(rule.rule.removeprefix(f"{stage.name}.")), f"{rule.documents:,}", "", tokens]
            for rule, tokens in ((rule, tokens_in_words((rule,))) for rule in stage.rules)
        ]
        rows[-1][3] = f"{stage.left:,}"
    if card.copies_added:
        rows.append(["copies by the size of clusters", "", f"+{card.copies_added:,}", "", ""])
    rows.append(["kept", "", "", f"{card.documents:,}", f"{card.tokens:,}"])
    yield _table(["Stage", "Rule", "Documents out", "Documents left", "Tokens"], rows, texts=2)
    if any(rule.tokens is not None for stage in card.funnel for rule in stage.rules):
        yield NOTE_OF_TOKENS


def _shares(share: TextShare) -> list[str]:
    return [
        f"{share.documents:,}",
        readable_count(share.tokens),
        bytes_in_words(share.bytes),
        f"{share.tokens_per_byte:.3f}" if share.bytes else "",
    ]


SHARES = ("Documents", "Tokens", "Text", "Tokens per byte")


def _sources(card: DataCard) -> Iterator[str]:
    yield "## Sources and licences"
    rows = [
        [
            plain(source.input),
            plain(source.licence or NONE),
            plain(source.language or NONE),
            f"{source.files:,}",
            *_shares(source.share),
        ]
        for source in card.sources
    ]
    yield _table(["Input", "Licence", "Language", "Files", *SHARES], rows, texts=3)
    if card.looked_at < card.documents:
        yield f"Estimated from {card.looked_at:,} documents, in blocks at even distances."


def _languages(card: DataCard) -> Iterator[str]:
    if card.languages:
        yield "## Languages"
        rows = [[plain(language), *_shares(share)] for language, share in card.languages[:MOST_LANGUAGES]]
        yield _table(["Language", *SHARES], rows)
        yield (
            f"The likeliest language of {card.language_documents:,} documents at even distances of the split "
            f"{plain(card.splits[0].name)}, by fastText's lid.176."
        )


def _lengths(card: DataCard) -> Iterator[str]:
    if card.lengths is not None:
        yield "## Lengths"
        yield _table(
            ["Tokens, up to twice that", "Documents"],
            [[binary_count(low), f"{count:,}"] for low, count in card.lengths.bins],
        )
        quantiles = ", ".join(f"{name} {length:,}" for name, length in card.lengths.quantiles)
        yield f"{quantiles}; mean {card.lengths.mean:,.1f} tokens."


def _clusters(card: DataCard) -> Iterator[str]:
    if card.clusters:
        yield "## Clusters of near-duplicates"
        copies = has_copies(card)
        rows = [[f"{size.documents:,}", f"{size.clusters:,}", *[f"{size.copies:,}"] * copies] for size in card.clusters]
        yield _table(["Documents in a cluster", "Clusters", *["Copies kept"] * copies], rows, texts=0)
        yield note_of_clusters(card)


def _counts(title: str, head: tuple[str, str], counts: Sequence[tuple[str | int, int]]) -> Iterator[str]:
    if counts:
        yield f"## {title}"
        named = [(f"{name:,}" if isinstance(name, int) else plain(name), count) for name, count in counts]
        yield _table(head, [[name, f"{count:,}"] for name, count in named])


def _samples(card: DataCard) -> Iterator[str]:
    if card.kept:
        yield "## Samples that were kept"
    for kept in card.kept:
        yield f"From {plain(kept.source)}, record {kept.record:,}: {kept.bytes:,} bytes, {kept.tokens:,} tokens"
        yield fenced(kept.text + "…" * kept.is_cut)
    if card.rejected:
        yield "## Samples that were taken out"
    for sample in card.rejected:
        why = f"By {plain(sample.rule)}: {sample.value:.4g}, the limit is {sample.limit:.4g}"
        detail = f" ({plain(sample.detail)})" if sample.detail else ""
        yield f"{why}{detail}; {plain(sample.source)}, record {sample.record:,}"
        yield fenced(sample.text + "…" * sample.is_cut)


def _made(card: DataCard) -> Iterator[str]:
    yield "## How it was made"
    if card.command:
        yield fenced(card.command)
    made = [f"Banyan {card.version}" if card.version else "", card.time]
    if any(made):
        yield plain(", ".join(filter(None, made)))
