"""format=gguf: one file for llama.cpp and all that is built on it (Ollama, LM Studio), written by the `gguf` package.

banyan export run.dir=runs/NAME format=gguf export.gguf=q8_0
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import ExportSettings
from trainer.config.rope import ORIGINAL
from trainer.errors import ConfigError, InputError
from trainer.export.gguf_tensors import ROPE_FREQUENCIES, GgufTensor, rope_factors, tensors_of
from trainer.export.gguf_vocabulary import GgufVocabulary, read_vocabulary
from trainer.export.source import ExportSource
from trainer.machine.durable import sync
from trainer.model.hugging_face.architecture import read_architecture, read_window
from trainer.model.rotary import yarn_attention_factor

KINDS = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}


def folder_suffix(settings: ExportSettings) -> str:
    """The format and its numbers."""
    return f"-gguf-{settings.gguf}"


def write(folder: Path, source: ExportSource, settings: ExportSettings) -> str:
    """Writes FOLDER/model-NUMBERS.gguf, tensor by tensor."""
    gguf = require_gguf()
    config = source.architecture
    sizes = _sizes(config, source)
    rope = sizes["rope_scaling"]
    kind = KINDS[config["model_type"]]
    head_dim = sizes["head_dim"] or sizes["hidden_size"] // sizes["num_attention_heads"]
    vocabulary = read_vocabulary(source.tokenizer, sizes["vocab_size"], beginning=config["bos_token_id"])
    tensors = list(tensors_of(source, sizes, kind, settings.gguf))
    if rope.get("rope_type") == "llama3":
        factors = rope_factors(rope, sizes["rope_theta"], head_dim)
        tensors.append(GgufTensor(ROPE_FREQUENCIES, gguf.GGMLQuantizationType.F32, factors))

    path = folder / f"model-{settings.gguf}.gguf"
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name(source.model.name)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[settings.gguf]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_sizes(writer, sizes, head_dim=head_dim, context=config["max_position_embeddings"])
    _add_stretching(writer, rope)
    _add_vocabulary(writer, vocabulary)
    for tensor in tensors:
        size = math.prod(tensor.byte_shape) * tensor.dtype.itemsize
        writer.add_tensor_info(tensor.name, tensor.byte_shape, tensor.dtype, size, raw_dtype=tensor.type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.values())
    writer.close()
    sync(path)
    whole = sum(tensor.type == gguf.GGMLQuantizationType.F16 for tensor in tensors)
    odd = f", {whole} matrices in F16 (their rows aren't multiples of 32)" if "q" in settings.gguf and whole else ""
    return f"{path.name}, {source.described}, {kind}, {path.stat().st_size:,} bytes{odd}"


def require_gguf() -> Any:
    """The package. ConfigError where it isn't installed."""
    try:
        import gguf
    except ImportError:
        raise ConfigError(
            "format=gguf needs the package gguf, which isn't installed: pip install 'banyan-train[adapt]'."
        ) from None
    return gguf


def _sizes(config: Mapping[str, Any], source: ExportSource) -> dict[str, Any]:
    """The fields that decide the model. InputError for one that no GGUF written here can describe."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise InputError(f"format=gguf: a {kind} isn't written here, {', '.join(KINDS)} are; export format=hf.")
    sizes = read_architecture(config, Path("config.json"))
    if not sizes["rope_scaling"].get("truncate", True):
        raise InputError("format=gguf: llama.cpp has no rope_scaling.truncate=false; export format=hf.")
    window = read_window(config, Path("config.json"))
    if window is not None and window < config["max_position_embeddings"]:
        raise InputError(f"format=gguf: llama.cpp has no sliding_window={window} for a {kind}; export format=hf.")
    sizes["vocab_size"] = source.shapes["model.embed_tokens.weight"][0]
    return sizes


def _add_sizes(writer: Any, sizes: Mapping[str, Any], *, head_dim: int, context: int) -> None:
    writer.add_context_length(context)
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    writer.add_vocab_size(sizes["vocab_size"])


def _add_stretching(writer: Any, rope: Mapping[str, Any]) -> None:
    """The scaling of rotary positions, in llama.cpp's terms; Llama 3's is a tensor."""
    gguf, kind = require_gguf(), rope.get("rope_type")
    if kind not in ("linear", "yarn"):
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
    writer.add_rope_scaling_factor(rope["factor"])
    if ORIGINAL in rope:
        writer.add_rope_scaling_orig_ctx_len(rope[ORIGINAL])
    if kind == "yarn":
        # llama.cpp multiplies by 0.1 ln(factor) + 1 itself
        writer.add_rope_scaling_yarn_attn_factor(
            yarn_attention_factor(rope) / yarn_attention_factor({"factor": rope["factor"]})
        )
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow", 1.0))


def _add_vocabulary(writer: Any, vocabulary: GgufVocabulary) -> None:
    writer.add_tokenizer_model("gpt2")  # byte-level BPE
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.beginning)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_eot_token_id(vocabulary.end_of_turn)
    writer.add_add_bos_token(vocabulary.adds_beginning)  # both said, since readers guess what isn't
    writer.add_add_eos_token(vocabulary.adds_end)
    if vocabulary.chat_template is not None:
        writer.add_chat_template(vocabulary.chat_template)
