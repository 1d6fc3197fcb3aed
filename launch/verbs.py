"""The verbs of `banyan`: what each does, the module that does it, and whether it runs on ranks."""

from dataclasses import dataclass, fields

from trainer.config import VERBS as SCHEMAS
from trainer.config.explain import COMMANDS


@dataclass(frozen=True)
class Verb:
    """One command. Its module is imported only when it runs, since most import torch."""

    name: str
    sentence: str
    module: str
    usage: str
    on_ranks: bool = False
    alone_without: str = ""
    """A key without which it doesn't run on ranks after all."""
    starts_others: bool = False
    """Whether it starts commands of its own: its main takes what was typed as well."""
    trains: bool = False
    """Whether it makes a run directory, and goes on in it."""
    answers: bool = False
    """Whether whoever typed it waits for its exit code, which is a result: it isn't started again."""
    outlives_console: bool = False
    """Whether its work goes on when nobody reads what it prints: for others that is all their work."""
    commands: tuple[str, ...] = ()
    """Values of its key `command` that may stand alone as the first word: `explain neighbours word=tree`."""
    subcommands: tuple[tuple[str, str], ...] = ()
    """What its first argument may be in the place of its work: a word before plain arguments, and its module."""
    unlisted: tuple[str, ...] = ()
    """Keys and sections that don't concern this verb: in its configuration, but not in its short help."""

    @property
    def schema(self) -> type | None:
        """The dataclass of its configuration; None if it takes plain arguments."""
        return SCHEMAS.get(self.name)


_OVERRIDES = "[group=choice] [key=value] …"

_PREPARING = ("data.input", "data.output", "data.text_field", "data.tokenizer", "data.validation_fraction")

VERBS: dict[str, Verb] = {
    verb.name: verb
    for verb in (
        Verb(
            "prepare",
            "Turn text into token shards.",
            "trainer.verbs.prepare",
            "data.input=PATH data.output=DIR " + _OVERRIDES,
            outlives_console=True,
            unlisted=(
                *("data.path", "data.train", "data.validation", "data.sequence_length", "data.mask_documents"),
                *("launch.processes", "launch.nodes", "launch.gpus_per_node", "launch.time"),
            ),
        ),
        Verb(
            "pretrain",
            "Train a model; the same command again goes on from the newest whole checkpoint.",
            "trainer.verbs.pretrain",
            _OVERRIDES,
            on_ranks=True,
            outlives_console=True,
            trains=True,
        ),
        Verb(
            "finetune",
            "Adapt a model that exists to more data; the same command again goes on. Takes all of pretrain's keys.",
            "trainer.verbs.finetune",
            "model.init_from=RUN_OR_FOLDER data.path=DIR " + _OVERRIDES,
            on_ranks=True,
            outlives_console=True,
            trains=True,
            unlisted=(*_PREPARING, "data.format", "track", "launch.nodes", "launch.gpus_per_node", "launch.time"),
        ),
        Verb(
            "plan",
            "Tell a run's memory, time and cost before a device is taken; find its best layout. Takes all of "
            "pretrain's keys.",
            "trainer.verbs.plan",
            "plan.devices=N plan.device=h100 [plan.best=true] " + _OVERRIDES,
            unlisted=(*(item.name for item in fields(SCHEMAS["pretrain"])),),
        ),
        Verb(
            "sweep",
            "Search for the best of pretrain's settings, early-stopping trials of one or more ranks; or fit a scaling "
            "law to a ladder of sizes. Takes all of pretrain's keys. The same command again goes on.",
            "launch.sweep.recipe",
            "search=CHOICE 'search.space.KEY=loguniform(LOW,HIGH)' " + _OVERRIDES,
            starts_others=True,
            outlives_console=True,
            unlisted=(*(item.name for item in fields(SCHEMAS["pretrain"])),),
        ),
        Verb(
            "evaluate",
            "Measure loss, perplexity and bits per byte of a checkpoint, or what it makes of tasks; compare two "
            "evaluations.",
            "trainer.verbs.evaluate",
            "run.dir=DIR|path=DIR [evaluate.tasks=[NAME,…]] " + _OVERRIDES + ", or compare A B",
            on_ranks=True,
            subcommands=(("compare", "trainer.verbs.compare"),),
            unlisted=(
                *_PREPARING,
                "data.train",
                "data.mask_documents",
                "checkpoint.every",
                "checkpoint.keep",
                "evaluate.every",
                "evaluate.tasks_every",
                "track",
            ),
        ),
        Verb(
            "generate",
            "Continue a prompt with a checkpoint or a Hugging Face folder, or a file of prompts on ranks.",
            "trainer.verbs.generate",
            'run.dir=DIR|path=DIR prompt="…"|prompts=FILE output=FILE [key=value] …',
            on_ranks=True,
            alone_without="prompts",
            unlisted=("run.name", "checkpoint.every", "checkpoint.keep", "checkpoint.asynchronous"),
        ),
        Verb(
            "chat",
            "Talk with a checkpoint or a Hugging Face folder, by its chat template.",
            "trainer.verbs.chat",
            "run.dir=DIR|path=DIR [key=value] …",
            unlisted=("run.name", "checkpoint.every", "checkpoint.keep", "checkpoint.asynchronous"),
        ),
        Verb(
            "serve",
            "Answer by OpenAI's API, with a page; go over to another model without losing a request.",
            "trainer.verbs.serve",
            "run.dir=DIR|path=DIR " + _OVERRIDES + ", or reload run.dir=NEW, rollback, hash-key, detect text=FILE",
            subcommands=(
                ("reload", "trainer.serve.commands.reload"),
                ("rollback", "trainer.serve.commands.rollback"),
                ("hash-key", "trainer.serve.commands.hash_key"),
                ("detect", "trainer.serve.commands.detect"),
            ),
            unlisted=("run.name", "checkpoint.every", "checkpoint.keep", "checkpoint.asynchronous", "launch"),
        ),
        Verb(
            "export",
            "Write a checkpoint as a Hugging Face folder, or in another format.",
            "trainer.verbs.export",
            "run.dir=DIR format=hf [key=value] …",
            unlisted=("run.name", "checkpoint.every", "checkpoint.keep", "track"),
        ),
        Verb(
            "explain",
            "Look inside a model: logit lens, attention, losses and gradients of a prompt; neighbours and similarity "
            "of words and texts.",
            "trainer.verbs.explain",
            'run.dir=DIR|path=DIR prompt="…" | neighbours word=WORD | similarity a="…" b="…" | retrieval pairs=FILE',
            commands=COMMANDS,
            unlisted=("run.name", "checkpoint.every", "checkpoint.keep", "checkpoint.asynchronous"),
        ),
        Verb(
            "doctor",
            "Examine an allocation: what it measures beside what it should, a rehearsed kill, bad nodes.",
            "trainer.verbs.doctor",
            "[doctor.checks=[NAME,…]] " + _OVERRIDES,
            on_ranks=True,
            answers=True,
            unlisted=("run.name", "checkpoint.every", "checkpoint.keep", "checkpoint.asynchronous", "track.every"),
        ),
        Verb(
            "data",
            "Check, show, index or share token shards; trace data to models and back; check annotated data.",
            "trainer.verbs.data",
            "verify|show|index|stats|rekey|push|pull|ls|trace …, index 'TARS' data.output=DIR, at RUN_DIR step=N, …",
            subcommands=(("index", "launch.index"),),
        ),
        Verb(
            "report",
            "Write a page of a run, of several beside each other or of a sweep; or the card of prepared data.",
            "trainer.verbs.report",
            "RUN_DIR … [against=RUN_DIR] [output=FOLDER], or DATA_DIR [output=FOLDER] [track.wandb.KEY=VALUE] …",
        ),
        Verb(
            "checkpoint",
            "Check, list or show checkpoints; show what a load takes.",
            "trainer.verbs.checkpoint",
            "verify|list|show DIR",
        ),
        Verb(
            "status",
            "Tell what runs are doing now, where, since when, how long they will take, and what they last said.",
            "trainer.verbs.status",
            "RUN_DIR … [format=json]",
        ),
        Verb(
            "logs",
            "Follow the logs of all ranks of a run, the first error first.",
            "trainer.verbs.logs",
            "RUN_DIR [follow=false] [lines=100]",
        ),
        Verb(
            "dashboard",
            "Make or update the project's W&B workspace and report from a file; or write both as JSON.",
            "trainer.verbs.dashboard",
            "[dashboard=CHOICE|FILE] [dashboard.output=DIR] [track.wandb.project=NAME] " + _OVERRIDES,
        ),
        Verb("sync", "Rebuild a run's W&B run from its metrics.jsonl.", "trainer.verbs.sync", "RUN_DIR"),
    )
}
