"""What a Hugging Face model is asked for, which follows from the objective, and the class that answers: model.head."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """transformers' auto class, its mapping from configurations to models, and what such a model is in words.

    `objective` is the one that trains it. `is_new` says that a folder's weights needn't have it: it is trained on what
    a language model has learnt. Names of its classes end in `suffix`, `pipeline` is the Hub's word for it, and
    transformers'.
    """

    auto_class: str
    mapping: str
    noun: str
    objective: str
    is_new: bool = False
    suffix: str = "ForCausalLM"
    pipeline: str = "text-generation"


ALWAYS_ZERO = ("final_logits_bias",)  # BART's stored buffer, which no training changes

CAUSAL, MASKED, SEQ2SEQ, CLASSIFY, TAG = "causal", "masked", "seq2seq", "classify", "tag"

HEADS: dict[str, Head] = {
    CAUSAL: Head("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING", "causal language model", CAUSAL),
    MASKED: Head(
        "AutoModelForMaskedLM",
        "MODEL_FOR_MASKED_LM_MAPPING",
        "masked language model",
        MASKED,
        suffix="ForMaskedLM",
        pipeline="fill-mask",
    ),
    SEQ2SEQ: Head(
        "AutoModelForSeq2SeqLM",
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
        "encoder–decoder",
        SEQ2SEQ,
        suffix="ForConditionalGeneration",
        pipeline="text2text-generation",
    ),
    CLASSIFY: Head(
        "AutoModelForSequenceClassification",
        "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
        "classifier of texts",
        CLASSIFY,
        is_new=True,
        suffix="ForSequenceClassification",
        pipeline="text-classification",
    ),
    TAG: Head(
        "AutoModelForTokenClassification",
        "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
        "classifier of tokens",
        TAG,
        is_new=True,
        suffix="ForTokenClassification",
        pipeline="token-classification",
    ),
}


def named_head(classes: object) -> str:
    """The head that a config.json's `architectures` name: causal where it names none of the others."""
    names = classes if isinstance(classes, list) else []
    return next(
        (head for head, known in HEADS.items() if any(str(name).endswith(known.suffix) for name in names)), CAUSAL
    )
