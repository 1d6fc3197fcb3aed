"""Whether a Hugging Face model can be trained as asked: what its config.json and its code decide together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trainer.config import Model, Parallel, Train
from trainer.errors import ConfigError, InputError
from trainer.model.build import LanguageModel
from trainer.model.hugging_face.causal_lm import CausalLM, has_dropout, has_head, read_model_config
from trainer.model.hugging_face.headed import wrap
from trainer.model.hugging_face.heads import ALWAYS_ZERO, CAUSAL, MASKED
from trainer.model.hugging_face.tensor_plan import check_plan

OTHER_HEADS = ("classifier_", "summary_")  # fields of config.json for heads that a language model hasn't


def require_suitable(settings: Model, train: Train, parallel: Parallel, *, sequence_length: int) -> None:
    """Refuses what can't be honoured, in one line; the model is looked at without its weights. Ours always can."""
    if settings.path is None:
        return
    with torch.device("meta"):
        model = wrap(settings)
    inner, place = model.inner, f"{settings.path}: {model.inner.config.model_type}"
    named = dict(inner.named_parameters(remove_duplicate=False))
    stored = [name for name in inner.state_dict() if name not in named and name not in ALWAYS_ZERO]
    if stored:
        raise InputError(f"{place} keeps {stored[0]} as a stored buffer, which checkpoints wouldn't hold.")
    if train.activation_checkpointing == "full" and not inner.supports_gradient_checkpointing:
        raise ConfigError(f"{place} can't compute blocks again in backward; use train.activation_checkpointing=none.")
    positions = getattr(inner.config, "max_position_embeddings", None)
    first = first_position(inner)
    if positions is not None and positions < sequence_length + first:
        after = f", of which the first {first} aren't used" if first else ""
        raise ConfigError(
            f"data.sequence_length={sequence_length}: {place} has max_position_embeddings={positions}{after}; "
            "lower the one, or raise the other by model.overrides.max_position_embeddings."
        )
    if getattr(inner.config, "output_router_logits", False):
        raise ConfigError(
            f"{place} asks for a loss of its router (output_router_logits), which isn't added here; set "
            "model.overrides.output_router_logits=false to train without it."
        )
    if parallel.tensor > 1:
        check_plan(inner, {name: tuple(p.shape) for name, p in model.named_parameters()}, parallel.tensor)
    require_repeatable(train, parallel, model, place)


def first_position(inner: Any) -> int:
    """The number of a row's first position: RoBERTa and its kin begin after their padding token's id."""
    counts = any(hasattr(module, "create_position_ids_from_input_ids") for module in inner.modules())
    return (inner.config.pad_token_id or 0) + 1 if counts else 0


def require_vocabulary(settings: Model, needed: int, data: Path, *, extra: int = 0) -> None:
    """Refuses a model that doesn't know all of the data's tokens: an embedding isn't resized.

    `extra` ids above them are an objective's, such as its mask.
    """
    size = read_model_config(settings).get_text_config().vocab_size
    if needed <= size < needed + extra:
        raise ConfigError(
            f"{settings.path}: its vocabulary of {size} has no room above the {needed} of the tokenizer of {data} for "
            f"{extra} mask{'s' * (extra > 1)} of the objective, which the tokenizer lacks: set "
            f"model.overrides.vocab_size={needed + extra} to train it from scratch, or prepare the text with a "
            "tokenizer that has them."
        )
    if size < needed:
        raise ConfigError(
            f"{settings.path}: its vocabulary of {size} is below the {needed} of the tokenizer of {data}: prepare the "
            "text with the model's own tokenizer (data.tokenizer.path), or set model.overrides.vocab_size to train it "
            "from scratch."
        )


def require_repeatable(train: Train, parallel: Parallel, model: CausalLM, place: str) -> None:
    """Refuses dropout that would not be the same at a resume, or at another shape of run."""
    values = model.config.to_dict()
    fields = {
        key: value
        for key, value in values.items()
        if "drop" in key and _is_on(value) and not key.startswith(OTHER_HEADS)
    }
    layers = next((key for key in fields if key in ("layerdrop", "layer_dropout")), None)
    if layers:
        raise ConfigError(
            f"{place} skips layers at random ({layers}={fields[layers]}), where ranks would part ways; set "
            f"model.overrides.{layers}=0."
        )
    if not has_dropout(model.inner):
        return
    off = " ".join(f"model.overrides.{key}=0" for key in fields)
    if not isinstance(train.micro_batch_size, int):
        raise ConfigError(
            f"{place} has dropout, and needs train.micro_batch_size: micro-batches decide what is dropped, so they "
            "must not follow from the number of ranks or from a measurement; set it to 1 or more, or switch dropout "
            f"off: {off}."
        )
    if parallel.tensor > 1:
        raise ConfigError(
            f"{place} has dropout with parallel.tensor={parallel.tensor}: a rank's heads would not drop what "
            f"the whole model does; switch it off: {off}."
        )


def require_causal(model: LanguageModel, sequence_length: int) -> None:
    """Refuses a model in which a token changes the logits of those before it: its loss would mean nothing.

    Its code and its config.json don't show it (an encoder, a prefix that sees itself, is_decoder=false), so it is run
    with its weights: one token is changed, early, in the middle and at the end. Every rank calls it.
    """
    if not isinstance(model, CausalLM):
        return
    if _looks_ahead(model, sequence_length):
        text_config = model.config.get_text_config()
        mend = "choose a causal model"
        if getattr(text_config, "is_decoder", None) is False:
            mend = "set model.overrides.is_decoder=true, if its code makes it causal then"
        if has_head(model.settings, MASKED):
            mend = f"train it by objective=masked, or {mend}"
        raise InputError(
            f"{model.settings.path}: {text_config.model_type} isn't causal: changing a token changes logits before it, "
            f"which would see what they are to predict; {mend}."
        )


def require_predictions(model: LanguageModel) -> None:
    """Refuses a model that isn't asked to be trained, but for what follows a text, and sees that. As require_causal."""
    if isinstance(model, CausalLM) and model.settings.head == CAUSAL and _looks_ahead(model, 8):
        raise InputError(
            f"{model.settings.path}: {model.config.get_text_config().model_type} isn't causal: changing a token "
            "changes logits before it, so that it can't say what follows a text; give a causal model."
        )


def require_bidirectional(model: LanguageModel, sequence_length: int) -> None:
    """Refuses a model in which a token doesn't change the logits of those before it: half of a cloze would be lost.

    It is run as require_causal does. Every rank calls it.
    """
    if not isinstance(model, CausalLM):
        return
    if not _looks_ahead(model, sequence_length):
        kind = model.config.get_text_config().model_type
        raise InputError(
            f"{model.settings.path}: {kind} is causal here: changing a token leaves the logits before it as they are, "
            "so that a masked token is guessed from one side; train it by objective=causal, or set "
            "model.overrides.is_decoder=false where that made it so."
        )


def _looks_ahead(model: CausalLM, sequence_length: int) -> bool:
    """Whether tokens change logits before them, as much as those after: one is changed early, in the middle, last."""
    length = max(4, min(32, sequence_length))
    changed = sorted({1, length // 2, length - 1})
    rows = _some_tokens(model, 1, length).repeat(1 + len(changed), 1)
    for row, position in enumerate(changed, start=1):
        rows[row, position] = (rows[row, position] + 1) % model.config.get_text_config().vocab_size
    logits = _try(model, rows)
    moved = (logits[1:] - logits[0]).abs().mean(dim=-1)  # (changed, length); sparse rounding hardly moves a mean
    before = max(float(row[:position].max()) for row, position in zip(moved, changed, strict=True))
    after = max((float(row[position + 1 :].max()) for row, position in zip(moved[:-1], changed, strict=False)))
    return before > 0.1 * after  # the same size where all see all, rounding or nothing where none looks ahead


def require_separation(model: LanguageModel, sequence_length: int) -> None:
    """Refuses data.mask_documents=true if a model, with its weights, lets documents of a row see each other.

    Its code doesn't show it, so it is run on two documents a and b: b must get the same logits after a, after another,
    and at the beginning of a row. Every rank calls it.
    """
    if not isinstance(model, CausalLM):
        return
    half = max(2, min(8, sequence_length // 2))
    a, b, other = _some_tokens(model, 3, half)
    rows = torch.stack([torch.cat(row) for row in ((a, b), (other, b), (b, a))])
    ids = torch.arange(2, device=rows.device).repeat_interleave(half).expand(3, -1)
    apart, together = _try(model, rows, ids), _try(model, rows)
    seen = max((apart[0, half:] - apart[1, half:]).abs().max(), (apart[0, half:] - apart[2, :half]).abs().max())
    if seen > 0.1 * (together[0, half:] - together[1, half:]).abs().max():  # rounding is far below
        raise ConfigError(
            f"data.mask_documents=true: {model.config.model_type} lets documents of a row see each other all the same, "
            "as some architectures must; use data.mask_documents=false."
        )


def _some_tokens(model: CausalLM, rows: int, length: int) -> torch.Tensor:
    """(rows, length) tokens of the model's vocabulary, the same at every call, where the model is."""
    size = model.config.get_text_config().vocab_size
    tokens = torch.randint(size, (rows, length), generator=torch.Generator().manual_seed(0))
    return tokens.to(next(model.parameters()).device)


@torch.no_grad()
def _try(model: CausalLM, rows: torch.Tensor, document_ids: torch.Tensor | None = None) -> torch.Tensor:
    """Logits (rows, length, vocabulary) in evaluation mode. InputError if the model can't be asked for them."""
    training = model.training
    model.eval()
    try:
        logits = model(rows, document_ids=document_ids)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the Hugging Face modules raise whatever they miss
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"{model.settings.path}: {model.config.model_type} can't be run on tokens alone ({reason[:200]}); "
            "choose another model, or train.precision=fp32 where this is about dtypes."
        ) from error
    finally:
        model.train(training)
    if logits.shape[:2] != rows.shape:
        raise InputError(f"{model.settings.path}: {model.config.model_type} gives no logits of each token.")
    return logits


def _is_on(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
