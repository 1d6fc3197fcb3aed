"""A folder of prepared data → its card, from manifests, shards, and what prepare kept of what it rejected."""

from __future__ import annotations

import json
import shlex
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.revise.revise import COPIES_ADDED
from trainer.data.text.near_dropped import read_near_record
from trainer.data.tokens.manifest import Manifest, SourceGroup, datasets_in, output_of, read_manifest
from trainer.data.tokens.stated import stated_language
from trainer.data.tokens.tokenizer import Tokenizer, load_tokenizer
from trainer.errors import InputError
from trainer.report.data_card.card import CardSource, CardSplit, ClusterSize, DataCard, KeptSample, TextShare
from trainer.report.data_card.documents import MOST_LOOKED_AT, SeenDocument, count_lengths, seen_documents
from trainer.report.data_card.funnel import make_funnel
from trainer.report.data_card.languages import MOST_GUESSED, count_languages, open_guesser
from trainer.report.data_card.rejected import read_rejected, samples_of

KEPT_SAMPLES = 6
SAMPLE_CHARACTERS = 800
SAMPLE_TOKENS = 4 * SAMPLE_CHARACTERS  # of one byte each, they are as many characters
MOST_DOMAINS = 25
STAGES = "data.clean.stages"  # settings of prepare that the card reads
REHYDRATE = "data.rehydrate"
TOLD_ELSEWHERE = ("command", "version", "time", "changed", "domains")


def gather_card(folder: Path, say: Callable[[str], None]) -> DataCard:
    """The card of an output of prepare, or of one dataset in it; `say` is told what is left out for want of a library.

    The same folder gives the same card. That of encrypted data shows no text.
    """
    manifests = [read_manifest(found) for found in datasets_in(folder)]
    main = manifests[0]
    output = output_of(folder)
    tokenizer = load_tokenizer(main.tokenizer_file)
    rejected = read_rejected(output, tokenizer)
    prepared = main.prepared
    stages = prepared.get(STAGES)
    counts, looked_at = _count_sources(manifests)
    languages, guessed = _languages(manifests, tokenizer, say)
    return DataCard(
        name=main.name,
        splits=tuple(_split(manifest) for manifest in manifests),
        documents_read=main.documents_read,
        copies_added=dict(_counted(prepared.get("changed"))).get(COPIES_ADDED, 0),
        funnel=make_funnel(main.documents_read, main.rejected, stages if isinstance(stages, list) else [], rejected),
        sources=tuple(_source(main, group, share) for group, share in zip(main.sources, counts, strict=True)),
        looked_at=looked_at,
        languages=languages,
        language_documents=guessed,
        lengths=count_lengths(manifests),
        domains=_counted(prepared.get("domains"))[:MOST_DOMAINS],
        clusters=tuple(_clusters(output, prepared.get(REHYDRATE))),
        changed=_counted(prepared.get("changed")),
        kept=() if main.encryption else tuple(_kept(main, tokenizer)),
        rejected=() if main.encryption else tuple(samples_of(rejected, SAMPLE_CHARACTERS)),
        tokenizer=main.tokenizer_name,
        vocabulary=main.vocab_size,
        dtype=main.dtype,
        command=_command(prepared.get("command")),
        version=str(prepared.get("version", "")),
        time=str(prepared.get("time", "")),
        settings=tuple((key, _as_typed(value)) for key, value in sorted(prepared.items()) if key not in TOLD_ELSEWHERE),
    )


def _split(manifest: Manifest) -> CardSplit:
    return CardSplit(
        name=manifest.folder.resolve().name,
        documents=manifest.documents,
        tokens=manifest.tokens,
        bytes=manifest.text_bytes,
        shards=len(manifest.shards),
        fingerprint=manifest.fingerprint,
    )


# ---------------------------------------------------------------------------------------------------------- sources


def _count_sources(manifests: Sequence[Manifest]) -> tuple[list[TextShare], int]:
    """What came from each input: counted, or where the splits are large estimated from even samples of them."""
    ends = list(accumulate(len(group.files) for group in manifests[0].sources))
    totals = [[0.0, 0.0, 0.0] for _ in ends]
    looked_at = 0
    for manifest in manifests:
        seen = [[0, 0, 0] for _ in ends]
        documents = tokens = text_bytes = 0
        for document in seen_documents(manifest):
            manifests[0].source_name(document.source)  # refuses a source that isn't there
            counts = seen[bisect_right(ends, document.source)]
            for place, count in enumerate((1, document.token_count, document.bytes)):
                counts[place] += count
            documents, tokens = documents + 1, tokens + document.token_count
            text_bytes += document.bytes
        looked_at += documents
        scales = (
            manifest.documents / max(1, documents),
            manifest.tokens / max(1, tokens),
            manifest.text_bytes / max(1, text_bytes),
        )
        for total, counts in zip(totals, seen, strict=True):
            for place, scale in enumerate(scales):
                total[place] += counts[place] * scale
    return [TextShare(*(round(count) for count in total)) for total in totals], looked_at


def _source(manifest: Manifest, group: SourceGroup, share: TextShare) -> CardSource:
    return CardSource(group.input, len(group.files), group.licence, stated_language(manifest, group), share)


def _languages(
    manifests: Sequence[Manifest], tokenizer: Tokenizer, say: Callable[[str], None]
) -> tuple[tuple[tuple[str, TextShare], ...], int]:
    """The languages of documents at even distances of the training split, guessed, and how many documents that were."""
    try:
        guess = open_guesser(tokenizer)
    except InputError as error:
        say(f"languages are left out: {error}")
        return (), 0
    main = manifests[0]
    stride = max(1, -(-min(main.documents, MOST_LOOKED_AT) // MOST_GUESSED))
    documents = islice(seen_documents(main), 0, None, stride)
    found = count_languages(documents, guess)
    return found, sum(share.documents for _, share in found)


def _clusters(output: Path, rehydrate: Any) -> Iterator[ClusterSize]:
    """The clusters of near-duplicates by size; none where nobody looked for them."""
    table = rehydrate if isinstance(rehydrate, dict) else {}
    copies = {int(size): count for size, count in table.items() if size.isdecimal() and type(count) is int}
    rows = read_near_record(output)
    sizes, counts = np.unique(rows["size"][rows["first_of_cluster"] == 1], return_counts=True)
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        yield ClusterSize(size, count, copies.get(max((key for key in copies if key <= size), default=0), 1))


# ---------------------------------------------------------------------------------------------------------- samples


def _kept(manifest: Manifest, tokenizer: Tokenizer) -> list[KeptSample]:
    """Documents at even distances of those that are looked at."""
    documents = min(manifest.documents, MOST_LOOKED_AT)
    stride = max(1, documents // KEPT_SAMPLES)
    chosen = islice(seen_documents(manifest), stride // 2, None, stride)
    return [_kept_sample(manifest, document, tokenizer) for document in islice(chosen, KEPT_SAMPLES)]


def _kept_sample(manifest: Manifest, document: SeenDocument, tokenizer: Tokenizer) -> KeptSample:
    text = tokenizer.decode(document.tokens[:SAMPLE_TOKENS])
    return KeptSample(
        source=manifest.source_name(document.source),
        record=document.record,
        bytes=document.bytes,
        tokens=document.token_count,
        text=text[:SAMPLE_CHARACTERS],
        is_cut=len(text) > SAMPLE_CHARACTERS or len(document.tokens) > SAMPLE_TOKENS,
    )


# ------------------------------------------------------------------------------------------------- what prepare noted


def _counted(value: Any) -> tuple[tuple[str, int], ...]:
    """Counts by name as prepare noted them, the largest first; what isn't such is left out."""
    counts = Counter(
        {name: count for name, count in value.items() if type(count) is int} if isinstance(value, dict) else {}
    )
    return tuple(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _command(value: Any) -> str:
    """The command line, as it can be typed."""
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        return ""
    program, *words = value
    name = Path(program).name
    return shlex.join(["banyan" if name in ("__main__.py", "banyan") else name, *words])


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
