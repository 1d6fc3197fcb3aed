"""The one schema of conf/: every key with its default, unit and a sentence. checks.py holds what must fit across keys.

Hydra composes YAML from conf/ onto these dataclasses (launch/compose.py), so an unknown key or a wrong type is an
error. Nothing heavy is imported here.
"""

from trainer.config.adapt import Adapt
from trainer.config.data import (
    Data,
    MixtureStage,
    TextSource,
    TokenizerSettings,
    TokenizerTrain,
    TrainingSet,
    ValidationSet,
)
from trainer.config.explain import Explain
from trainer.config.launch import Launch
from trainer.config.model import OF_CAUSAL_LM, Model
from trainer.config.plain_values import as_stored_values, as_values, flatten
from trainer.config.plan import PlanSettings
from trainer.config.run import Checkpoint, Evaluate, Health, Run, Track, Wandb
from trainer.config.sweep import Ladder, Search
from trainer.config.training import AUTO, ObjectiveSettings, Optimizer, Parallel, Schedule, Train
from trainer.config.verbs import (
    VERBS,
    Chat,
    EvaluateVerb,
    Export,
    ExportSettings,
    Finetune,
    Generate,
    Plan,
    Prepare,
    Pretrain,
    Sweep,
)

__all__ = [
    "AUTO",
    "OF_CAUSAL_LM",
    "VERBS",
    "Adapt",
    "Chat",
    "Checkpoint",
    "Data",
    "Evaluate",
    "EvaluateVerb",
    "Explain",
    "Export",
    "ExportSettings",
    "Finetune",
    "Generate",
    "Health",
    "Ladder",
    "Launch",
    "MixtureStage",
    "Model",
    "ObjectiveSettings",
    "Optimizer",
    "Parallel",
    "Plan",
    "PlanSettings",
    "Prepare",
    "Pretrain",
    "Run",
    "Schedule",
    "Search",
    "Sweep",
    "TextSource",
    "TokenizerSettings",
    "TokenizerTrain",
    "Track",
    "Train",
    "TrainingSet",
    "ValidationSet",
    "Wandb",
    "as_stored_values",
    "as_values",
    "flatten",
]
