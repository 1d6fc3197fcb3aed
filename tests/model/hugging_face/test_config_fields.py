"""Every field of a config.json: our decoder computes what transformers computes from the same folder, or refuses it.

The right value is Hugging Face's own: each folder below is given to both.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from tests.hugging_face import EXPERTS, KINDS, SIZES, load_model, save_model, some_tokens
from tests.model.hugging_face.test_tensor_files import read_model
from trainer.config import Model
from trainer.engine.initial_weights import check_head
from trainer.errors import ConfigError, InputError
from trainer.model.hugging_face.architecture import read_architecture
from trainer.model.hugging_face.config_fields import known_fields
from trainer.model.hugging_face.init_folder import find_init_folder, require_fit
from trainer.model.hugging_face.tensor_files import FolderReader

# Written beside the classes' own fields by transformers 4
LEGACY = """
torch_dtype rope_theta rope_scaling torchscript use_bfloat16 tf_legacy_loss pruned_heads tie_encoder_decoder is_decoder
add_cross_attention cross_attention_hidden_size output_attentions finetuning_task prefix tokenizer_class bos_token_id
pad_token_id eos_token_id sep_token_id decoder_start_token_id task_specific_params _name_or_path max_length min_length
do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p
repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences
output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values suppress_tokens
exponential_decay_length_penalty begin_suppress_tokens _attn_implementation_autoset pretraining_tp
"""

# Edits of a folder's config.json, None: taken out; each on every kind
EDITS = [
    {"hidden_act": "swish"},
    {"hidden_act": "gelu"},
    {"hidden_activation": "gelu"},
    {"attention_bias": True},
    {"mlp_bias": True},
    {"bias": True},
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": 1},
    {"tie_word_embeddings": None},
    {"rms_norm_eps": 0.01},
    {"rms_norm_eps": None},
    {"layer_norm_eps": 0.01},
    {"head_dim": 24},
    {"head_dim": None},
    {"num_key_value_heads": None},
    {"num_key_value_heads": 4},
    {"num_key_value_heads": 3},
    {"num_attention_heads": 8},
    {"num_attention_heads": 5},
    {"vocab_size": 301},
    {"hidden_size": 96},
    {"intermediate_size": 95},
    {"num_hidden_layers": 1},
    {"num_hidden_layers": 3},
    {"rope_theta": 123.0},
    {"rope_parameters": None},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "rope_theta": 123},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "rope_theta": 77.0},
    {"rope_parameters": {"rope_theta": 123.0}, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    {"rope_parameters": {"rope_theta": 123.0}, "rope_scaling": {"rope_type": "default", "rope_theta": 77.0}},
    {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    {"rope_parameters": {"rope_type": "default", "type": "linear", "factor": 4.0, "rope_theta": 1e4}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 4.0}}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": float("nan")}},
    {"rope_parameters": "linear"},
    {"partial_rotary_factor": 0.5},
    {"rotary_pct": 0.5},
    {"sliding_window": 8},
    {"sliding_window": 40},
    {"sliding_window": 41},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1},
    {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 2},
    {"sliding_window": 8, "use_sliding_window": False},
    {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 0},
    {"layer_types": ["full_attention"] * 2},
    {"layer_types": ["full_attention"] * 2, "sliding_window": 8},
    {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8, "use_sliding_window": True},
    {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64, "use_sliding_window": True},
    {"layer_types": ["chunked_attention", "full_attention"], "attention_chunk_size": 8},
    {"layer_types": ["full_attention"]},
    {"logit_scale": 0.5},
    {"logits_scaling": 2.0},
    {"final_logit_softcapping": 30.0},
    {"attn_logit_softcapping": 50.0},
    {"query_pre_attn_scalar": 64},
    {"residual_multiplier": 0.5},
    {"embedding_multiplier": 12.0},
    {"attention_multiplier": 0.1},
    {"no_rope_layers": [0, 1]},
    {"qk_layernorm": True},
    {"position_embedding_type": "alibi"},
    {"is_encoder_decoder": True},
    {"is_decoder": False},
    {"add_cross_attention": True},
    {"pruned_heads": {"0": [1]}},
    {"pretraining_tp": 2},
    {"chunk_size_feed_forward": 4},
    {"per_layer_config": {"1": {"num_key_value_heads": 4}}},
    {"dtype": "int8"},
    {"dtype": None, "torch_dtype": "bfloat16"},
    {"attention_dropout": 0.5},
    {"initializer_range": 0.5},
    {"max_position_embeddings": 8},
    {"num_experts": 2},
    {"num_experts_per_tok": 1},
    {"num_experts_per_tok": 9},
    {"num_local_experts": 2},
    {"norm_topk_prob": False},
    {"decoder_sparse_step": 2},
    {"mlp_only_layers": [0]},
    {"shared_expert_intermediate_size": 32},
    {"output_router_logits": True},
    {"something_new": 1},
    {"something_new": None},
]
ACCEPTED = {  # of each kind at least: what is true of it all the same
    "llama": ["swish", "'rope_theta': 123", "'sliding_window': 40", "pretraining_tp", "torch_dtype", "is_decoder"],
    "qwen2": ["swish", "'rope_theta': 123", "'sliding_window': 8, 'use_sliding_window': False", "torch_dtype"],
    "qwen3_moe": [
        "swish",
        "'num_experts_per_tok': 1",
        "norm_topk_prob",
        "'sliding_window': 8, 'use_sliding_window': False",
    ],
}
TENSORS = (".weight is", "head_dim", "num_key_value_heads")  # or what else an edit makes wrong
ROW = 40  # tokens of a row below


def known_to_ours(folder: Path) -> torch.Tensor | str:
    """Our decoder's logits for a folder, or why it is refused."""
    try:
        origin = find_init_folder(str(folder))
        require_fit(Model(**origin.architecture), origin, ROW)
        check_head(FolderReader(folder), tied=origin.architecture["tie_word_embeddings"])
    except (ConfigError, InputError) as error:
        return str(error)
    return read_model(folder)(some_tokens(time=ROW))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, untied, and what its config.json says."""
    made = {}
    for kind in ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe"):
        folder = tmp_path_factory.mktemp(kind)
        save_model(folder, kind, tie_word_embeddings=False)
        made[kind] = folder, json.loads((folder / "config.json").read_text())
    return made


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "qwen3_moe"])
@torch.no_grad()
def test_any_edit_is_refused_by_name_or_means_what_transformers_means(folders, kind):
    folder, config = folders[kind]
    accepted = []
    for edit in EDITS:
        edited = {**config, **edit}
        dropped = [key for key, value in edit.items() if value is None]
        (folder / "config.json").write_text(json.dumps({k: v for k, v in edited.items() if k not in dropped}))
        ours = known_to_ours(folder)
        if isinstance(ours, str):
            others = (
                "not there",
                "no place",
                " is (",
                "contradict",
                "head_dim",
                "num_attention_heads",
                "num_key_value_heads",
            )
            assert any(key in ours for key in (*edit, *others)), (edit, ours)
            continue
        theirs = load_model(folder)(some_tokens(time=ROW)).logits
        difference = float((ours - theirs).abs().max())
        assert difference < 1e-4, edit
        accepted.append(str(edit))
    for part in ACCEPTED.get(kind, ()):
        assert any(part in edit for edit in accepted), (part, accepted)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_transformers_own_classes_is_known(kind):
    settings, _, own = KINDS[kind]
    config = settings(**{**SIZES, **own})
    fields = {field.name for field in dataclasses.fields(settings)} | config.to_dict().keys() | set(LEGACY.split())
    assert fields - known_fields(config.model_type) == set()


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "qwen3", "qwen3_moe", "llama"])
def test_what_a_file_leaves_out_has_transformers_default(kind):
    """A file with nothing but sizes that have no default here."""
    settings = KINDS[kind][0]
    sizes = {key: SIZES[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    sizes |= {"num_attention_heads": 64, "hidden_size": 128, **(EXPERTS if kind == "qwen3_moe" else {})}
    theirs = settings(**sizes)
    ours = read_architecture({"model_type": theirs.model_type, **sizes}, Path("config.json"))
    assert ours["num_key_value_heads"] == theirs.num_key_value_heads
    assert (ours["head_dim"] or 128 // 64) == getattr(theirs, "head_dim", 128 // 64)
    assert ours["tie_word_embeddings"] == theirs.tie_word_embeddings
    assert ours["rms_norm_eps"] == theirs.rms_norm_eps
    assert ours["rope_theta"] == theirs.rope_parameters["rope_theta"]


def test_a_row_longer_than_the_positions_of_a_folder_is_refused(tmp_path):
    save_model(tmp_path, "llama", max_position_embeddings=64)
    origin = find_init_folder(str(tmp_path))
    require_fit(Model(**origin.architecture), origin, 64)
    with pytest.raises(ConfigError, match=r"data.sequence_length=65: .* has max_position_embeddings=64; lower the one"):
        require_fit(Model(**origin.architecture), origin, 65)


@torch.no_grad()
def test_window_of_a_mistral_counts_although_its_file_leaves_it_out(tmp_path):
    save_model(tmp_path, "mistral")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "sliding_window"}))
    origin = find_init_folder(str(tmp_path))
    assert origin.window == load_model(tmp_path).config.sliding_window == 4096
    model = Model(**origin.architecture)
    require_fit(model, origin, 4096)
    with pytest.raises(ConfigError, match=r"data.sequence_length=4097: attention of .* sees 4096 tokens"):
        require_fit(model, origin, 4097)
