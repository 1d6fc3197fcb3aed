"""The stages by name, and how the configuration becomes a list of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.config.clean import CHANGING, Clean
from trainer.data.clean.block_list import BlockListStage
from trainer.data.clean.c4 import C4ParagraphsStage, C4Stage
from trainer.data.clean.chinese_web import ChineseWebStage
from trainer.data.clean.classifier import ClassifierStage
from trainer.data.clean.code import CodeStage
from trainer.data.clean.contamination import ContaminationStage
from trainer.data.clean.document import Limits, Stage
from trainer.data.clean.fineweb_quality import FinewebQualityStage
from trainer.data.clean.gopher_quality import GopherQualityStage
from trainer.data.clean.gopher_repetition import GopherRepetitionStage
from trainer.data.clean.language import LanguageStage
from trainer.data.clean.mojibake import MojibakeStage
from trainer.data.clean.perplexity import PerplexityStage
from trainer.data.clean.personal_data import PersonalStage
from trainer.data.clean.ratios import RatiosStage
from trainer.data.clean.unicode import UnicodeStage
from trainer.data.clean.url_list import UrlListStage

BUILD: dict[str, Callable[[Clean], Stage]] = {
    "url_list": lambda clean: UrlListStage(clean.url_list),
    "mojibake": lambda clean: MojibakeStage(),
    "unicode": lambda clean: UnicodeStage(clean.unicode),
    "language": lambda clean: LanguageStage(clean.language),
    "ratios": lambda clean: RatiosStage(clean.ratios),
    "gopher_repetition": lambda clean: GopherRepetitionStage(clean.gopher_repetition),
    "gopher_quality": lambda clean: GopherQualityStage(clean.gopher_quality),
    "c4": lambda clean: C4Stage(clean.c4),
    "c4_paragraphs": lambda clean: C4ParagraphsStage(clean.c4_paragraphs),
    "fineweb_quality": lambda clean: FinewebQualityStage(clean.fineweb_quality),
    "chinese_web": lambda clean: ChineseWebStage(clean.chinese_web),
    "code": lambda clean: CodeStage(clean.code),
    "block_list": lambda clean: BlockListStage(clean.block_list),
    "perplexity": lambda clean: PerplexityStage(clean.perplexity),
    "classifier": lambda clean: ClassifierStage(clean.classifier),
    "contamination": lambda clean: ContaminationStage(clean.contamination),
    "personal": lambda clean: PersonalStage(clean.personal),
}

JUDGES: dict[str, Any] = {  # the stages that reject; each has its section's name
    "url_list": UrlListStage,
    "language": LanguageStage,
    "ratios": RatiosStage,
    "gopher_repetition": GopherRepetitionStage,
    "gopher_quality": GopherQualityStage,
    "c4": C4Stage,
    "c4_paragraphs": C4ParagraphsStage,
    "fineweb_quality": FinewebQualityStage,
    "chinese_web": ChineseWebStage,
    "code": CodeStage,
    "block_list": BlockListStage,
    "perplexity": PerplexityStage,
    "classifier": ClassifierStage,
    "contamination": ContaminationStage,
}


def tables_of(clean: Clean) -> list[Limits]:
    """The rules of a configuration, in its order."""
    return [JUDGES[name].limits_of(getattr(clean, name)) for name in clean.stages if name in JUDGES]


def build_stages(clean: Clean, *, changing: bool = False) -> list[Stage]:
    """The stages of a configuration, in its order; with `changing` those alone that change texts."""
    return [BUILD[name](clean) for name in clean.stages if name in (*CHANGING, "c4") or not changing]
