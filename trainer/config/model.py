"""The shape of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from trainer.config.knobs import knob

# Keys that have an effect where `path` names a Hugging Face model: its config.json says all else.
OF_CAUSAL_LM = ("name", "path", "overrides", "head", "z_loss", "loss_chunk")


@dataclass
class Model:
    """Shape of the decoder; sizes are named as in Hugging Face's LlamaConfig, experts as in its Qwen3MoeConfig."""

    name: str = knob("custom", "What the preset is called; part of the default run name.", is_name=True)
    init_from: Optional[str] = knob(
        None,
        "Where initial weights and sizes come from: a Hugging Face folder, a run directory, a checkpoint "
        "(step-N), or hf://OWNER/NAME@REVISION.",
        common=True,
    )
    path: Optional[str] = knob(
        None,
        "Folder, or hf://OWNER/NAME@REVISION, of any Hugging Face causal model, to be trained with Hugging Face's own "
        "code (model=hf).",
        common=True,
    )
    overrides: dict[str, Any] = knob({}, "Fields of that folder's config.json to replace.")
    head: str = knob(
        "causal",
        "What a Hugging Face model is asked for; the objective sets it.",
        choices=("causal", "masked", "seq2seq", "classify", "tag"),
        later=True,
    )
    kind: str = knob(
        "decoder",
        "Which of Banyan's own models: decoder, of the Llama family, or lstm, a baseline.",
        choices=("decoder", "lstm"),
        later=True,
    )
    vocab_size: Optional[int] = knob(None, "Tokens in the vocabulary; by default the dataset's.", "tokens", low=1)
    hidden_size: int = knob(256, "Width of the residual stream.", low=1)
    intermediate_size: int = knob(704, "Width of the SwiGLU feed-forward.", low=1)
    num_hidden_layers: int = knob(4, "Decoder blocks.", low=1)
    num_attention_heads: int = knob(4, "Query heads.", low=1)
    num_key_value_heads: int = knob(2, "Key and value heads; must divide num_attention_heads.", low=1)
    head_dim: Optional[int] = knob(None, "Width of a head; by default hidden_size / num_attention_heads.", low=1)
    rope_theta: float = knob(10000.0, "Base of the rotary frequencies.", low=1.0)
    rope_scaling: dict[str, Any] = knob(
        {},
        "Positions stretched for longer rows, as in config.json: {type: linear, factor: F}, {type: yarn, factor: F, "
        "original_max_position_embeddings: N} or llama3's.",
        later=True,
    )
    extend_context: bool = knob(
        False,
        "A long-context stage: begin with weights of init_from that were trained with another rope_theta or "
        "rope_scaling, or on shorter rows.",
        later=True,
    )
    rms_norm_eps: float = knob(1e-5, "Epsilon of RMSNorm.")
    tie_word_embeddings: bool = knob(False, "Share the embedding with the output head.")
    qk_norm: bool = knob(False, "RMSNorm on queries and keys, per head (Qwen3).")
    qkv_bias: bool = knob(False, "Biases on queries, keys and values (Qwen2).")
    initializer_range: Optional[float] = knob(
        None, "Standard deviation of initial matrices; by default 1/sqrt(inputs), and 1 for an untied embedding."
    )
    mup: bool = knob(
        False, "muP: the best learning rate is the same at every width; optimizer.lr is that of mup_base_width."
    )
    mup_base_width: int = knob(256, "hidden_size at which muP changes nothing.", low=1)
    dropout: float = knob(
        0.0, "Dropout after embedding, attention and feed-forward; the same at every shape of run.", high=0.99
    )
    z_loss: float = knob(0.0, "Weight of the z-loss, mean of logsumexp(logits)^2 (PaLM); 0 is off.")
    loss_chunk: int = knob(
        0, "Tokens whose logits are held at once by the loss; 0: 2048, on a GPU up to 8192 by the vocabulary.", "tokens"
    )
    num_experts: int = knob(0, "Experts in the place of each feed-forward; 0: a dense model.")
    num_experts_per_tok: int = knob(2, "Experts that each token goes to.", low=1)
    moe_intermediate_size: int = knob(352, "Width of an expert; intermediate_size isn't used then.", low=1)
    norm_topk_prob: bool = knob(True, "Make the weights of a token's experts sum to 1.")
    router_aux_loss_coef: float = knob(
        0.01, "Weight of the load-balancing loss of each row; that is 1 where experts are chosen evenly."
    )
    router_z_loss_coef: float = knob(0.001, "Weight of the router's z-loss, mean of logsumexp(logits)^2 (ST-MoE).")
