"""format=peft: the adapters of a run alone, for PeftModel.from_pretrained."""

from __future__ import annotations

from pathlib import Path

from trainer.config import ExportSettings
from trainer.data.tokens.tokenizer import copy_tokenizer
from trainer.errors import require
from trainer.export.hugging_face import DTYPES
from trainer.export.source import ExportSource


def folder_suffix(settings: ExportSettings) -> str:
    """The format."""
    return "-peft"


def write(folder: Path, source: ExportSource, settings: ExportSettings) -> str:
    """Fills the folder."""
    require(settings.average_last == 1, "export.average_last with format=peft: a mean of factors is no adapter; use 1.")
    write_adapters = source.write_adapters
    require(write_adapters is not None, "format=peft: the run trained all weights, not adapters; use format=hf.")
    assert write_adapters is not None
    written = write_adapters(folder, dtype=DTYPES[settings.dtype][1])
    copy_tokenizer(source.tokenizer_folder, folder)
    return f"adapters of {source.described}, {settings.dtype}, {written:,} bytes of weights"
