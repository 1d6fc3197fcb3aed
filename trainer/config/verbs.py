"""The whole configuration of each verb."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

from trainer.config.adapt import Adapt
from trainer.config.dashboard import Dashboard
from trainer.config.data import Data
from trainer.config.doctor import Doctor
from trainer.config.encryption import KeyOfData
from trainer.config.explain import Explain
from trainer.config.knobs import knob, part
from trainer.config.launch import Launch
from trainer.config.model import Model
from trainer.config.plan import PlanSettings
from trainer.config.run import Checkpoint, Downloads, Evaluate, Health, Run, Track, WandbTrack
from trainer.config.serve import Serve
from trainer.config.sweep import Search
from trainer.config.training import ObjectiveSettings, Optimizer, Parallel, Schedule, Train

PATH_TEXT = "A Hugging Face folder or hf://OWNER/NAME@REVISION, in the place of run.dir."
TEMPLATE_TEXT = "How chats are written: chatml, or a file with a Jinja template; by default the tokenizer's own."


@dataclass
class Pretrain:
    """Configuration of `banyan pretrain`, and what a run directory's config.yaml holds."""

    seed: int = knob(0, "Seed of weights, data order and dropout.", common=True, high=2**63 - 1)
    run: Run = part(Run)
    model: Model = part(Model)
    data: Data = part(Data)
    train: Train = part(Train)
    objective: ObjectiveSettings = part(ObjectiveSettings)
    adapt: Adapt = part(Adapt)
    optimizer: Optimizer = part(Optimizer)
    schedule: Schedule = part(Schedule)
    parallel: Parallel = part(Parallel)
    deepspeed: dict[str, Any] = knob({}, "Merged last into the DeepSpeed configuration, for what has no key here.")
    checkpoint: Checkpoint = part(Checkpoint)
    evaluate: Evaluate = part(Evaluate)
    track: Track = part(Track)
    health: Health = part(Health)
    launch: Launch = part(Launch)

    @property
    def has_bf16_weights(self) -> bool:
        """Whether working weights are in bf16, beside fp32 ones for the optimiser: DeepSpeed's way at stages 1 to 3."""
        return self.train.in_bf16 and self.parallel.zero_stage > 0

    @property
    def autocasts(self) -> bool:
        """Whether weights are fp32, and autocast multiplies bf16 copies of them.

        So it is at stage 0, where DeepSpeed's own bf16 is wrong: it takes a step as the engine is made.
        """
        return self.train.in_bf16 and self.parallel.zero_stage == 0


@dataclass
class Finetune(Pretrain):
    """Configuration of `banyan finetune`: pretrain's, with other defaults (conf/finetune.yaml)."""


@dataclass
class Sweep(Pretrain):
    """Configuration of `banyan sweep`: that of the trials, and what is searched for."""

    search: Search = part(Search)


@dataclass
class Plan(Pretrain):
    """Configuration of `banyan plan`: that of the run, and the cluster that it is planned for."""

    plan: PlanSettings = part(PlanSettings)


@dataclass
class Prepare:
    """Configuration of `banyan prepare`."""

    seed: int = knob(0, "Seed of the document shuffle.", common=True, high=2**63 - 1)
    run: Downloads = part(Downloads)
    data: Data = part(Data)
    launch: Launch = part(Launch)


@dataclass
class Memorisation:
    """How audit=memorisation asks what a model knows by heart."""

    prompts: int = knob(1000, "Places of the training order that are drawn.", common=True, low=1, high=10**7)
    prompt_tokens: Optional[int] = knob(
        None,
        "Tokens of a document that it is given; by default 50, or what its context leaves; fewer of short ones.",
        "tokens",
        common=True,
        low=1,
    )
    tokens: int = knob(50, "Tokens after them that it must go on with, word for word.", "tokens", common=True, low=1)
    seed: int = knob(0, "Seed of the draw.", high=2**63 - 1)


@dataclass
class EvaluateVerb:
    """Configuration of `banyan evaluate`."""

    run: Run = part(Run)
    path: Optional[str] = knob(None, PATH_TEXT, common=True)
    data: Data = part(Data)
    checkpoint: Checkpoint = part(Checkpoint)
    evaluate: Evaluate = part(Evaluate)
    audit: Optional[str] = knob(
        None,
        "What else to look for: memorisation, documents of the training order that the model goes on with verbatim.",
        common=True,
        choices=("memorisation",),
    )
    memorisation: Memorisation = part(Memorisation)
    parallel: Parallel = part(Parallel)
    track: WandbTrack = part(WandbTrack)
    launch: Launch = part(Launch)


@dataclass
class Generate:
    """Configuration of `banyan generate`."""

    run: Run = part(Run)
    data: KeyOfData = part(KeyOfData)
    checkpoint: Checkpoint = part(Checkpoint)
    path: Optional[str] = knob(None, PATH_TEXT, common=True)
    prompt: str = knob("", "Text to continue; taken as it is, no quoting for Hydra needed.", common=True)
    prompts: Optional[str] = knob(
        None, 'JSON lines to answer instead, each {"prompt": text} or {"messages": [...]}.', common=True
    )
    output: Optional[str] = knob(
        None, "JSON lines that the answers to them go to; the same command again goes on.", common=True
    )
    batch_size: int = knob(8, "Prompts of a file that a rank continues together.", "prompts", common=True, low=1)
    chat_template: Optional[str] = knob(None, TEMPLATE_TEXT)
    launch: Launch = part(Launch)
    max_tokens: int = knob(128, "Most tokens to generate.", "tokens", common=True, low=1)
    temperature: float = knob(0.8, "Flatness of the sampling; 0 takes the likeliest token.", common=True, high=100.0)
    top_k: int = knob(0, "Sample among the k likeliest tokens; 0 is off.", common=True)
    top_p: float = knob(1.0, "Sample among the likeliest tokens that hold this probability.", common=True, high=1.0)
    seed: int = knob(0, "Seed of the sampling.", common=True, high=2**63 - 1)


@dataclass
class Chat:
    """Configuration of `banyan chat`."""

    run: Run = part(Run)
    data: KeyOfData = part(KeyOfData)
    checkpoint: Checkpoint = part(Checkpoint)
    path: Optional[str] = knob(None, PATH_TEXT, common=True)
    prompt: str = knob("", "One message to answer; by default each line of standard input in turn.", common=True)
    system: str = knob("", "What the model is told before.", common=True)
    chat_template: Optional[str] = knob(None, TEMPLATE_TEXT, common=True)
    max_tokens: int = knob(256, "Most tokens of an answer.", "tokens", common=True, low=1)
    temperature: float = knob(0.8, "Flatness of the sampling; 0 takes the likeliest token.", common=True, high=100.0)
    top_k: int = knob(0, "Sample among the k likeliest tokens; 0 is off.", common=True)
    top_p: float = knob(1.0, "Sample among the likeliest tokens that hold this probability.", common=True, high=1.0)
    seed: int = knob(0, "Seed of the sampling.", common=True, high=2**63 - 1)


@dataclass
class ExportSettings:
    """What export writes, and where."""

    output: Optional[str] = knob(None, "New folder to write; by default export/step-N in the run's.", common=True)
    dtype: str = knob("fp32", "Numbers of the written weights.", common=True, choices=("fp32", "bf16"))
    gguf: str = knob(
        "f16",
        "Numbers of a GGUF's matrices; rows that blocks of 32 don't divide stay f16.",
        common=True,
        choices=("f32", "f16", "q8_0", "q4_0"),
    )
    average_last: int = knob(1, "Write the mean of this many checkpoints, the last ones.", common=True, low=1)
    loss_rows: int = knob(
        256, "Rows of each validation set on which format=int8 measures its loss; 0: all of them.", "rows"
    )
    licence: Optional[str] = knob(
        None, "The model's licence, as its card states it, such as apache-2.0; by default the card states none."
    )
    upload: bool = knob(
        False, "Upload the written files to W&B where the export is recorded there; off, it refers to them."
    )
    shard_bytes: int = knob(4 * 2**30, "Most bytes of weights in one file; a larger tensor has one alone.", low=1)


@dataclass
class Export:
    """Configuration of `banyan export`."""

    run: Run = part(Run)
    data: KeyOfData = part(KeyOfData)
    checkpoint: Checkpoint = part(Checkpoint)
    path: Optional[str] = knob(
        None, "Hugging Face folder to write in another format, in the place of a run.", common=True
    )
    format: str = knob(
        "hf",
        "What is written: hf, a folder that transformers loads, adapters merged; gguf, a file for llama.cpp; int8, "
        "such a folder with matrices in 8 bits; peft, adapters alone, as peft does.",
        common=True,
        choices=("hf", "gguf", "int8", "peft"),
    )
    export: ExportSettings = part(ExportSettings)
    track: WandbTrack = part(WandbTrack)


VERBS: dict[str, type] = {
    "prepare": Prepare,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "plan": Plan,
    "sweep": Sweep,
    "evaluate": EvaluateVerb,
    "generate": Generate,
    "chat": Chat,
    "export": Export,
    "explain": Explain,
    "dashboard": Dashboard,
    "doctor": Doctor,
    "serve": Serve,
}
