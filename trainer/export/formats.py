"""The formats of `banyan export`. One more is one more file here and a row below.

Each has `folder_suffix(settings)`, by which folders of several formats differ, and `write(folder, source, settings)`,
which fills an empty folder and returns what it wrote in words.
"""

from __future__ import annotations

from types import ModuleType

from trainer.export import gguf_file, hugging_face, int8, peft

FORMATS: dict[str, ModuleType] = {"hf": hugging_face, "gguf": gguf_file, "int8": int8, "peft": peft}
