"""Refuses objectives where they can't be, before any file is read; each in one line."""

from __future__ import annotations

from trainer.config import AUTO, Pretrain
from trainer.errors import require

NOT_CAUSAL = ("masked", "seq2seq", "classify", "tag", "reward")
LABELLED = ("classify", "tag")


def check_objective(config: Pretrain) -> None:
    """Refuses what an objective can't be asked for, and settings that are another's."""
    name, settings = config.objective.name, config.objective
    require(
        name == "masked" or (settings.mask_token is None and settings.whole_words),
        f"objective.mask_token and objective.whole_words are for objective=masked, not for {name}: leave them out.",
    )
    require(
        name == "seq2seq" or settings.spans is None,
        f"objective.spans is for objective=seq2seq, not for {name}: leave it out.",
    )
    require(
        name in LABELLED or not settings.class_weights,
        f"objective.class_weights is for objective=classify and tag, not for {name}: leave it out.",
    )
    if name not in NOT_CAUSAL:
        return
    require(
        config.model.path is not None,
        f"objective={name}: Banyan's own models are causal, and have no head for it; set model.path=DIR, the folder of "
        "a Hugging Face model (a run's by banyan export).",
    )
    require(
        not config.evaluate.tasks,
        f"evaluate.tasks with objective={name}: tasks are asked of causal models; leave them out.",
    )
    require(
        not config.evaluate.prompts or name == "seq2seq",
        f"evaluate.prompts with objective={name}: its model doesn't write text; leave them out.",
    )
    require(
        config.train.micro_batch_size != AUTO,
        f"train.micro_batch_size={AUTO} with objective={name}: what is measured is causal training; give a number.",
    )
    require(
        config.adapt.name == "full",
        f"adapt={config.adapt.name} with objective={name}: adapters are for causal models, and a new head must be "
        "trained whole; use adapt=full.",
    )
    require(
        config.parallel.tensor == 1,
        f"parallel.tensor={config.parallel.tensor} with objective={name}: plans that cut layers are for causal models; "
        "use parallel.zero_stage=3.",
    )
    require(
        not config.data.mask_documents,
        f"data.mask_documents=true with objective={name}: models that aren't causal see all of a row; use "
        "data.packing=single, a document to a row.",
    )
    require(
        config.data.packing != "whole",
        f"data.packing=whole with objective={name}: models that aren't causal see all of a row; use "
        f"data.packing=single, a document to a row{', or stream' * (name in ('masked', 'seq2seq'))}.",
    )
    require(
        name not in (*LABELLED, "reward") or config.data.packing == "single",
        f"data.packing={config.data.packing} with objective={name}: a text is judged alone; use data.packing=single.",
    )
