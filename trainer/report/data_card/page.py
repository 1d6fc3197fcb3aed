"""The card as one HTML page that needs nothing else: no script, no request."""

from __future__ import annotations

from collections.abc import Iterator

from trainer.data.text.progress import bytes_in_words
from trainer.report.curves import readable_count
from trainer.report.data_card.card import ClusterSize, DataCard, FunnelStage, RemovedByRule, TextShare
from trainer.report.data_card.funnel import DUPLICATES
from trainer.report.frame import note, page, section, tiles
from trainer.report.markup import Content, Markup, bar, element, table

MOST_LANGUAGES = 20
NONE = "not stated"


def card_as_html(card: DataCard) -> str:
    """The whole page."""
    sections = [
        *_top(card),
        *_funnel(card),
        *_sources(card),
        *_languages(card),
        *_lengths(card),
        *_domains(card),
        *_clusters(card),
        *_changed(card),
        *_kept(card),
        *_rejected(card),
        *_made(card),
    ]
    return page(f"{card.name}: data card", sections)


def _top(card: DataCard) -> Iterator[Markup]:
    yield element("h1", None, card.name)
    made = (
        f"Token shards for language models, prepared {card.time}" if card.time else "Token shards for language models"
    )
    yield note(f"{made}{f' by Banyan {card.version}' if card.version else ''}.")
    figures = [
        (readable_count(card.documents), "documents"),
        (readable_count(card.tokens), "tokens"),
        (bytes_in_words(card.bytes), "of text"),
        (f"{card.tokens / max(1, card.bytes):.3f}", "tokens per byte"),
        (f"{card.distinct / max(1, card.documents_read):.1%}", f"of {card.documents_read:,} documents read"),
    ]
    yield tiles(figures)
    rows = [
        [
            split.name,
            f"{split.documents:,}",
            f"{split.tokens:,}",
            bytes_in_words(split.bytes),
            f"{split.shards:,}",
            element("code", None, split.fingerprint[:16]),
        ]
        for split in card.splits
    ]
    yield table(["Split", "Documents", "Tokens", "Text", "Shards", "Fingerprint"], rows)
    yield note(f"Tokenizer {card.tokenizer}: {card.vocabulary:,} tokens, stored as {card.dtype}.")


# ----------------------------------------------------------------------------------------------------------- funnel


def _funnel(card: DataCard) -> Iterator[Markup]:
    read = max(1, card.documents_read)
    rows: list[list[Content]] = [["read", "", f"{card.documents_read:,}", "", bar(1.0)]]
    before = card.documents_read
    for stage in card.funnel:
        rows.append(_stage_row(stage, read, before))
        if stage.name not in DUPLICATES.values():  # of which each is a rule alone
            rows += [_rule_row(stage, rule, read) for rule in stage.rules]
        before = stage.left
    if card.copies_added:
        copies = card.copies_added
        rows.append(["copies by the size of clusters", f"+{copies:,}", f"{before + copies:,}", "", ""])
    rows.append(
        [
            element("b", None, "kept"),
            "",
            f"{card.documents:,}",
            f"{card.tokens:,}",
            bar(min(1.0, card.documents / read)),
        ]
    )
    head = ["Stage and rule", "Documents out", "Documents left", "Tokens", ""]
    yield section(
        "From what was read to what was kept",
        table(head, rows),
        *([note(NOTE_OF_TOKENS)] if _has_tokens(card) else []),
    )


NOTE_OF_TOKENS = "Tokens of what was taken out are told by the documents that were kept of each rule; ≈ is an estimate."


def _has_tokens(card: DataCard) -> bool:
    return any(rule.tokens is not None for stage in card.funnel for rule in stage.rules)


def tokens_in_words(rules: tuple[RemovedByRule, ...]) -> str:
    """The tokens that rules took out; empty where that isn't known of all of them."""
    if not rules or any(rule.tokens is None for rule in rules):
        return ""
    total = sum(rule.tokens or 0 for rule in rules)
    return f"{total:,}" if all(rule.exact for rule in rules) else f"≈ {readable_count(total)}"


def _stage_row(stage: FunnelStage, read: int, before: int) -> list[Content]:
    return [
        stage.name,
        f"−{stage.documents:,} ({stage.documents / max(1, before):.1%})",
        f"{stage.left:,}",
        tokens_in_words(stage.rules),
        bar(stage.left / read, lost=stage.documents / read),
    ]


def _rule_row(stage: FunnelStage, rule: RemovedByRule, read: int) -> list[Content]:
    name = rule.rule.removeprefix(f"{stage.name}.")
    tokens = tokens_in_words((rule,))
    return [
        element("span", {"class": "rule"}, name),
        element("span", {"class": "soft"}, f"{rule.documents:,}"),
        "",
        element("span", {"class": "soft"}, tokens),
        "",
    ]


# ------------------------------------------------------------------------------------------------ sources, languages


def _shares(share: TextShare, total: int) -> list[Content]:
    return [
        f"{share.documents:,}",
        readable_count(share.tokens),
        bytes_in_words(share.bytes),
        f"{share.tokens_per_byte:.3f}" if share.bytes else "",
        bar(share.bytes / max(1, total)),
    ]


def _sources(card: DataCard) -> Iterator[Markup]:
    total = sum(source.share.bytes for source in card.sources)
    has_languages = any(source.language for source in card.sources)
    head = [
        "Input",
        "Licence",
        *["Language"] * has_languages,
        "Files",
        "Documents",
        "Tokens",
        "Text",
        "Tokens per byte",
    ]
    rows = [
        [
            element("span", {"class": "wide"}, source.input),
            source.licence or element("span", {"class": "soft"}, NONE),
            *[source.language or element("span", {"class": "soft"}, NONE)] * has_languages,
            f"{source.files:,}",
            *_shares(source.share, total),
        ]
        for source in card.sources
    ]
    sampled = card.looked_at < card.documents
    estimated = f"Estimated from {card.looked_at:,} documents, in blocks at even distances." if sampled else ""
    yield section(
        "Sources and licences",
        table([*head, ""], rows, texts=2 + has_languages),
        *([note(estimated)] if estimated else []),
    )


def _languages(card: DataCard) -> Iterator[Markup]:
    if not card.languages:
        return
    total = sum(share.bytes for _, share in card.languages)
    rows = [[language, *_shares(share, total)] for language, share in card.languages[:MOST_LANGUAGES]]
    more = len(card.languages) - MOST_LANGUAGES
    yield section(
        "Languages",
        table(["Language", "Documents", "Tokens", "Text", "Tokens per byte", ""], rows),
        note(
            f"The likeliest language of {card.language_documents:,} documents at even distances of the split "
            f"{card.splits[0].name}, by fastText's lid.176{f'; {more:,} more languages have less' if more > 0 else ''}."
        ),
    )


# ------------------------------------------------------------------------------------- lengths, domains, duplicates


def _lengths(card: DataCard) -> Iterator[Markup]:
    if card.lengths is None:
        return
    highest = max(count for _, count in card.lengths.bins)
    columns = [
        element(
            "div",
            {"class": "column", "title": f"{low:,} to {2 * low - 1:,} tokens: {count:,} documents"},
            element("em", None, readable_count(count) if count else ""),
            element("i", {"style": f"height:{82 * count / highest:.2f}%"}),
            element("b", None, binary_count(low)),
        )
        for low, count in card.lengths.bins
    ]
    quantiles = ", ".join(f"{name} {length:,}" for name, length in card.lengths.quantiles)
    yield section(
        "Lengths",
        element("div", {"class": "columns"}, columns),
        note("Documents by tokens; a column holds the documents of so many tokens up to twice that."),
        element("p", None, f"{quantiles}; mean {card.lengths.mean:,.1f} tokens."),
    )


def binary_count(power: int) -> str:
    """A power of two in a word: 512, 1Ki, 64Ki, 2Mi."""
    for size, unit in ((2**30, "Gi"), (2**20, "Mi"), (2**10, "Ki")):
        if power >= size:
            return f"{power // size}{unit}"
    return str(power)


def _domains(card: DataCard) -> Iterator[Markup]:
    if card.domains:
        highest = card.domains[0][1]
        rows = [
            [element("span", {"class": "wide"}, name), f"{count:,}", bar(count / highest, "other")]
            for name, count in card.domains
        ]
        yield section(
            "Top domains",
            table(["Domain", "Documents", ""], rows),
            note("Of the documents that were read, duplicates included, by the addresses in their records."),
        )


def _clusters(card: DataCard) -> Iterator[Markup]:
    if card.clusters:
        highest = max(size.clusters for size in card.clusters)
        rows = [
            [f"{size.documents:,}", f"{size.clusters:,}", *[f"{size.copies:,}"] * has_copies(card), _bar(size, highest)]
            for size in card.clusters
        ]
        yield section(
            "Clusters of near-duplicates",
            table(["Documents in a cluster", "Clusters", *["Copies kept"] * has_copies(card), ""], rows),
            note(note_of_clusters(card)),
        )


def _bar(size: ClusterSize, highest: int) -> Markup:
    return bar(size.clusters / highest, "other")


def has_copies(card: DataCard) -> bool:
    """Whether a document stands more than once."""
    return any(size.copies > 1 for size in card.clusters)


def note_of_clusters(card: DataCard) -> str:
    """What becomes of a cluster."""
    kept = "Of each cluster one document is kept, or none where an earlier set has one."
    return (
        f"{kept} It stands as often as said in training; held-out documents stand once." if has_copies(card) else kept
    )


def _changed(card: DataCard) -> Iterator[Markup]:
    if card.changed:
        rows = [[what, f"{count:,}"] for what, count in card.changed]
        yield section("Changed", table(["What", "Times"], rows))


# ---------------------------------------------------------------------------------------------------------- samples


def _sample(about: str, text: str, is_cut: bool) -> Markup:
    return element(
        "div", {"class": "sample"}, element("div", {"class": "about"}, about), element("pre", None, text + "…" * is_cut)
    )


def _kept(card: DataCard) -> Iterator[Markup]:
    if card.kept:
        yield section(
            "Samples that were kept",
            [
                _sample(
                    f"{sample.source}, record {sample.record:,}: {sample.bytes:,} bytes, {sample.tokens:,} tokens",
                    sample.text,
                    sample.is_cut,
                )
                for sample in card.kept
            ],
        )


def _rejected(card: DataCard) -> Iterator[Markup]:
    if card.rejected:
        yield section(
            "Samples that were taken out",
            [
                _sample(
                    f"{sample.rule}: {sample.value:.4g}, the limit is {sample.limit:.4g}"
                    f"{f' ({sample.detail})' if sample.detail else ''}; {sample.source}, record {sample.record:,}",
                    sample.text,
                    sample.is_cut,
                )
                for sample in card.rejected
            ],
        )


def _made(card: DataCard) -> Iterator[Markup]:
    settings = [[element("code", None, key), element("code", None, value)] for key, value in card.settings]
    fingerprints = [[split.name, element("code", None, split.fingerprint)] for split in card.splits]
    yield section(
        "How it was made",
        *([element("pre", None, card.command)] if card.command else []),
        table(["Split", "Fingerprint"], fingerprints, texts=2),
        *(
            [element("details", None, element("summary", None, "Settings"), table(["Key", "Value"], settings, texts=2))]
            if settings
            else []
        ),
    )
