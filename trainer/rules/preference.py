"""Refuses preferences and distillation where they can't be, each in one line, before any file is read."""

from __future__ import annotations

import dataclasses

from trainer.config import ObjectiveSettings, Pretrain
from trainer.errors import require

PAIRS = ("dpo", "simpo", "orpo")  # objectives over pairs of answers

# The settings that each has, and no other objective
SETTINGS = {
    "dpo": ("beta", "label_smoothing", "loss", "length_normalised"),
    "simpo": ("beta", "label_smoothing", "gamma"),
    "orpo": ("beta",),
    "distill": ("teacher", "alpha", "temperature"),
}


def check_preferences(config: Pretrain) -> None:
    """Refuses an objective with what it can't have."""
    objective, data, model = config.objective, config.data, config.model
    name = objective.name
    for field in dataclasses.fields(ObjectiveSettings):
        value, known = getattr(objective, field.name), [owner for owner in SETTINGS if field.name in SETTINGS[owner]]
        require(
            not known or name in known or value == field.default,
            f"objective.{field.name}={value} is for objective={' and '.join(known)}, not for {name}: leave it out.",
        )
    if name == "distill":
        _check_distill(config)
    if name == "reward":
        require(
            data.long_documents == "reject",
            "objective=reward: pairs of answers aren't cut: set data.long_documents=reject, as it does by itself.",
        )
    if name not in PAIRS:
        return
    require(objective.beta > 0, f"objective.beta={objective.beta}: must be above 0.")
    require(
        data.packing == "whole" and data.long_documents == "reject",
        f"objective={name}: pairs of answers aren't cut: set data.packing=whole and data.long_documents=reject, as "
        f"objective={name} does by itself.",
    )
    require(
        config.parallel.sequence == 1,
        f"parallel.sequence={config.parallel.sequence} with objective={name}: an answer's tokens would be on several "
        "ranks; use parallel.sequence=1.",
    )
    require(
        model.z_loss == 0 and model.dropout == 0,
        f"objective={name}: model.z_loss and model.dropout aren't part of an answer's probability; set them to 0.",
    )
    require(
        model.num_experts == 0,
        f"objective={name} with model.num_experts={model.num_experts}: what keeps experts balanced isn't part of an "
        "answer's probability; use a dense model.",
    )


def _check_distill(config: Pretrain) -> None:
    """Refuses distillation where the student's probabilities aren't whole, or a penalty would be left out."""
    objective, data, model = config.objective, config.data, config.model
    require(
        config.parallel.sequence == 1,
        f"parallel.sequence={config.parallel.sequence} with objective=distill: a teacher sees whole rows; use "
        "parallel.sequence=1.",
    )
    require(
        model.z_loss == 0 and model.num_experts == 0,
        "objective=distill: model.z_loss and penalties of experts aren't added to it; set model.z_loss=0 and take a "
        "dense model.",
    )
    require(
        objective.teacher is not None or objective.alpha == 0 or data.packing == "whole",
        f"data.packing={data.packing} with objective=distill: what the shards have of a teacher was said of each "
        "document alone; use data.packing=whole, or ask the teacher by objective.teacher=MODEL.",
    )
