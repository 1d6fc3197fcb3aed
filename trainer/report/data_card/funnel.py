"""The funnel: from the documents that were read to those that were kept, by stage and rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer.data.text.filters import DUPLICATE
from trainer.report.data_card.card import FunnelStage, RemovedByRule
from trainer.report.data_card.rejected import RejectedRule

READING = "reading"
REPEATED = "repeated_paragraphs"  # which are taken out last of all
DUPLICATES = {DUPLICATE: "exact duplicates", "near_duplicate": "near-duplicates"}


def make_funnel(
    read: int, rejected: Mapping[str, int], stages: Sequence[str], kept: Mapping[str, RejectedRule]
) -> tuple[FunnelStage, ...]:
    """The stages in their order: reading, those of cleaning (`stages`), duplicates. `rejected` counts by rule.

    A rule of cleaning is called STAGE.NAME. Stages that took nothing out are left out.
    """
    by_stage: dict[str, list[RemovedByRule]] = {}
    for rule, documents in rejected.items():
        if documents:
            by_stage.setdefault(_stage_of(rule), []).append(_removed(rule, documents, kept.get(rule)))
    names = sorted(by_stage, key=lambda name: (_rank(name, stages), name))
    found, left = [], read
    for name in names:
        rules = tuple(sorted(by_stage[name], key=lambda each: (-each.documents, each.rule)))
        left -= sum(each.documents for each in rules)
        found.append(FunnelStage(name, rules, left))
    return tuple(found)


def _stage_of(rule: str) -> str:
    stage, has_stage, _ = rule.partition(".")
    return stage if has_stage else DUPLICATES.get(rule, READING)


def _rank(stage: str, stages: Sequence[str]) -> int:
    if stage == READING:
        return -1
    if stage in DUPLICATES.values():
        return len(stages) + 1 + list(DUPLICATES.values()).index(stage)
    if stage == REPEATED:
        return len(stages) + 1 + len(DUPLICATES)
    return stages.index(stage) if stage in stages else len(stages)


def _removed(rule: str, documents: int, kept: RejectedRule | None) -> RemovedByRule:
    if kept is None:
        return RemovedByRule(rule, documents)
    return RemovedByRule(rule, documents, kept.tokens_of(documents), kept.is_whole_of(documents))
