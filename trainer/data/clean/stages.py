"""The stages by name, and how the configuration becomes a list of them."""

from __future__ import annotations

from collections.abc import Callable

from trainer.config.clean import Clean
from trainer.data.clean.block_list import BlockListStage
from trainer.data.clean.c4 import C4ParagraphsStage, C4Stage
from trainer.data.clean.chinese_web import ChineseWebStage
from trainer.data.clean.classifier import ClassifierStage
from trainer.data.clean.code import CodeStage
from trainer.data.clean.contamination import ContaminationStage
from trainer.data.clean.document import Stage
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


def build_stages(clean: Clean) -> list[Stage]:
    """The stages of a configuration, in its order."""
    return [BUILD[name](clean) for name in clean.stages]
