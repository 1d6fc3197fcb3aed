"""A model of ours as GGUF, which llama.cpp runs: weights of the Llama architecture, and the tokenizer.

llama.cpp rotates pairs of neighbours where Hugging Face rotates halves, so the rows of queries and keys are permuted; a
file without that still answers with words. Its pre-tokenizers go by name: one that isn't known by its rules is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from trainer.config import Model
from trainer.data.tokens.tokenizer import Tokenizer
from trainer.errors import ConfigError, InputError
from trainer.model.sizes import head_width

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
HEAD = {"lm_head.weight": "output.weight"}
BLOCK = 32  # numbers that a quantized block holds: rows of other lengths stay F16
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


def check_gguf(model: Model) -> None:
    """Refuses a model that isn't of the Llama architecture."""
    for key, wanted in (("path", None), ("qk_norm", False), ("qkv_bias", False), ("num_experts", 0), ("mup", False)):
        if getattr(model, key) != wanted:
            raise ConfigError(
                f"format=gguf with model.{key}={getattr(model, key)}: only our decoder of the Llama architecture is "
                "written; use format=hf, and llama.cpp's own converter."
            )


def gguf_name(name: str) -> str:
    """The name that llama.cpp has for a parameter."""
    if name in WHOLE | HEAD:
        return (WHOLE | HEAD)[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(
    file: Path,
    weights: Iterable[tuple[str, torch.Tensor]],
    model: Model,
    tokenizer: Tokenizer,
    *,
    numbers: str,
    context_length: int,
) -> int:
    """Writes a model's whole fp32 `weights` as `numbers`, f32, f16, q8_0 or q4_0; bytes of weights. Norms stay F32."""
    gguf = _gguf()
    kind = gguf.GGMLQuantizationType[numbers.upper()]
    writer = gguf.GGUFWriter(str(file), "llama", use_temp_file=True)
    width = head_width(model)
    writer.add_name(model.name)
    writer.add_context_length(context_length)
    writer.add_embedding_length(model.hidden_size)
    writer.add_block_count(model.num_hidden_layers)
    writer.add_feed_forward_length(model.intermediate_size)
    writer.add_head_count(model.num_attention_heads)
    writer.add_head_count_kv(model.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_layer_norm_rms_eps(model.rms_norm_eps)
    writer.add_vocab_size(model.vocab_size)
    writer.add_file_type(gguf.LlamaFileType["ALL_F32" if numbers == "f32" else f"MOSTLY_{numbers.upper()}"])
    _add_tokenizer(gguf, writer, tokenizer, int(model.vocab_size or 0))
    written = 0
    for name, weight in weights:
        if name in HEAD and model.tie_word_embeddings:
            continue
        if name.endswith("q_proj.weight"):
            weight = _permuted(weight, model.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            weight = _permuted(weight, model.num_key_value_heads)
        stored = gguf.GGMLQuantizationType.F32 if weight.ndim == 1 else kind
        if stored.name.startswith("Q") and weight.shape[-1] % BLOCK:
            stored = gguf.GGMLQuantizationType.F16
        data = gguf.quants.quantize(weight.contiguous().numpy(), stored)
        written += data.nbytes
        writer.add_tensor(gguf_name(name), data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of queries or keys, halves of a head interleaved."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _add_tokenizer(gguf: Any, writer: Any, tokenizer: Tokenizer, vocab_size: int) -> None:
    loaded = json.loads(tokenizer.content)
    model = loaded["model"]
    if model.get("type", "BPE") != "BPE" or loaded.get("normalizer"):
        raise InputError("format=gguf: the tokenizer is no byte-level BPE without a normaliser; use format=hf.")
    ids = {number: token for token, number in tokenizer.engine.get_vocab(with_added_tokens=True).items()}
    added = {token["id"]: token["special"] for token in loaded.get("added_tokens") or []}
    special = set(tokenizer.special_ids.values())
    types = gguf.TokenType
    kinds = [
        types.CONTROL if number in special else types.USER_DEFINED if number in added else types.NORMAL
        for number in range(vocab_size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer_name(loaded.get("pre_tokenizer")))
    writer.add_token_list([ids.get(number, f"[unused{number}]") for number in range(vocab_size)])
    writer.add_token_types([kind if number in ids else types.UNUSED for number, kind in enumerate(kinds)])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(tokenizer.end_of_text_id)
    writer.add_bos_token_id(tokenizer.end_of_text_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def pre_tokenizer_name(rules: Any) -> str:
    """llama.cpp's name for a pre-tokenizer. InputError for one that isn't known."""
    parts = rules.get("pretokenizers", [rules]) if isinstance(rules, dict) else []
    found = [{key: part.get(key) for key in (DIGITS if part.get("type") == "Digits" else BYTE_LEVEL)} for part in parts]
    if found == [BYTE_LEVEL]:
        return "gpt-2"
    if found == [DIGITS, BYTE_LEVEL]:
        return "smollm"
    raise InputError(
        "format=gguf: llama.cpp's name for this tokenizer's pre_tokenizer isn't known here, and under another it would "
        "cut texts differently; use format=hf, and llama.cpp's own converter."
    )


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ConfigError(
            "format=gguf needs gguf, which isn't installed: pip install 'banyan-train[adapt]'."
        ) from error
    return gguf
