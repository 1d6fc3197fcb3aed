"""How a verb reads what was mutated, what it may write, and what is right where it ends with 0."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz import guard, reseal, right
from tests.fuzz.child import Ending
from tests.fuzz.subjects import OWN_RUN, RUN, World, make_data, make_models, make_run, make_texts, make_tokenizer

BOX = "a/box"
LAUNCH = (
    *("launch.cli", "launch.compose", "launch.local", "launch.memory_check", "antlr4", "yaml"),
    *("tokenizers", "safetensors.torch", "trainer.rules.finetune"),
)
"""What most verbs import once they run: a child would do so each time."""
DATASET = (
    *("data/*/manifest.json", "data/*/manifest.json", "data/*/*.tar", "data/*/*.index", "data/*/*.index"),
    *("data/*/tokenizer/tokenizer.json", "data/*/tokenizer/tokenizer_config.json"),
)
CHECKPOINT = (
    *("run/checkpoints/*/COMPLETE", "run/checkpoints/*/state.json", "run/checkpoints/*/index.safetensors"),
    *("run/checkpoints/*/rank-*.safetensors",),
)
RUN_FILES = (
    *(
        "run/config.yaml",
        "run/config.yaml",
        "run/history.json",
        "run/tokenizer/*.json",
        "run/lock",
        "run/metrics.jsonl",
    ),
    *("run/overrides.yaml", "run/environment.json", "run/facts.json", "run/stopped.json", "run/logs/*"),
    *("run/heartbeats/*", "run/samples.jsonl"),
)
HF = (
    "config.json",
    "config.json",
    "config.json",
    "*.safetensors",
    "*.safetensors",
    "tokenizer.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class Case:
    """A case that has run: its world, how it ended, how the pristine one ended, what was done to it."""

    world: World
    ending: Ending
    pristine: Ending
    expected: object
    mutations: tuple[str, ...]
    resealed: bool

    @property
    def box(self) -> Path:
        return self.world.box

    def original(self, path: str) -> Path:
        """A path in the box, as it was before mutations."""
        return self.world.pristine / BOX / path


Judge = Callable[[Case], str | None]


def anything(case: Case) -> str | None:
    """Whatever it shows is what is there."""
    return None


@dataclass(frozen=True)
class Scenario:
    """`targets` are globs of what is mutated; `writes` what it may write, relative to the case's folder.

    `observe` is what a result is judged by, kept of the pristine run; `judge` says what is wrong, or None.
    """

    arguments: tuple[str, ...]
    targets: tuple[str, ...]
    judge: Judge = anything
    writes: tuple[str, ...] = ()
    arrange: Callable[[World], None] | None = None
    observe: Callable[[World], object] = lambda world: None
    seals: Callable[[World], None] | None = None
    codes: tuple[int, ...] = ()
    """Codes that are right besides 0, 1 and 2."""
    weight: int = 1
    is_text: bool = False
    """Whether its output is a text for other programs, which get it as it is."""


@dataclass(frozen=True)
class VerbSubject:
    """A verb: what is made for it, what its process imports, its scenarios by name."""

    make: tuple[Callable[[World], None], ...]
    imports: tuple[str, ...]
    scenarios: dict[str, Scenario] = field(default_factory=dict)
    on_ranks: bool = True
    """Whether it, or what is made for it, needs DeepSpeed's CPU op."""


# ------------------------------------------------------------------------------------------------------------- judges


def whole_dataset(case: Case) -> str | None:
    """verify: nothing that decides the tokens has changed."""
    if case.resealed:
        return None
    for split in ("train", "validation"):
        if not (case.box / "data" / split).exists():
            continue  # what isn't there isn't said to be right
        if right.dataset_core(case.box / "data" / split) != right.dataset_core(case.original(f"data/{split}")):
            return f"verified, but data/{split} isn't what it was"
    return None


def whole_checkpoints(case: Case) -> str | None:
    if case.resealed:
        return None
    for folder in sorted(case.original("run/checkpoints").glob("step-*")):
        name = f"run/checkpoints/{folder.name}"
        if (case.box / name).is_dir() and right.checkpoint_core(case.box / name) != right.checkpoint_core(folder):
            return f"verified, but {name} isn't what it was"
    return None


def told_of_another(case: Case) -> bool:
    """Whether the newest checkpoint is gone without a trace, or it is said that an older one is taken."""
    return "not whole" in case.ending.stderr or not (case.box / "run/checkpoints/step-00000002").is_dir()


def same_output(case: Case) -> str | None:
    """What is printed is what the pristine run printed, or it says that an older checkpoint was taken."""
    if case.resealed or case.ending.stdout == case.pristine.stdout or told_of_another(case):
        return None
    return "prints something else than without the mutation"


def same_output_or_config(case: Case) -> str | None:
    """Likewise, unless the configuration, which is trusted, says something else."""
    changed = right.read(case.box / "run/config.yaml") != right.read(case.original("run/config.yaml"))
    return None if changed else same_output(case)


def observe_loss(world: World) -> object:
    return right.last_row(world.box / "run")


def same_loss(case: Case) -> str | None:
    """The last step is the pristine run's, to the bit."""
    found = right.last_row(case.box / "run")
    if case.resealed or found == case.expected:
        return None
    return f"ends at {found}; without the mutation at {case.expected}"


def same_export(case: Case) -> str | None:
    """What is exported is what the pristine run exported; tokenizer_config.json is copied as it is."""
    changed = right.read(case.box / "run/config.yaml") != right.read(case.original("run/config.yaml"))
    if case.resealed or changed or told_of_another(case):
        return None
    found, expected = observe_export(case.world), case.expected
    assert isinstance(found, dict)
    assert isinstance(expected, dict)
    different = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
    wrong = sorted(name for name in different if not name.endswith("/tokenizer_config.json"))
    return f"exports something else: {', '.join(wrong)}" if wrong else None


def observe_export(world: World) -> object:
    return right.tree(world.box / "run" / "export")


def same_as_transformers(folder: str) -> Judge:
    """The first loss is the pristine run's, or what transformers makes of the folder as it is now."""

    def judge(case: Case) -> str | None:
        found = right.last_row(case.box / "run")
        if not any(re.search("safetensors", path.name) for path in (case.box / folder).iterdir()):
            return None  # begins with random weights
        if found == case.expected or _has_dropout(case.box / folder / "config.json"):
            return None
        rows = right.first_rows(case.original("data"), 32, 2)
        answer: Path = case.world.reports / "reference"
        answer.unlink(missing_ok=True)

        def work() -> int:
            answer.write_text(repr(right.reference_loss(case.box / folder, rows)))
            return 0

        ending = case.world.run(work)
        if not answer.exists():
            return f"trains (loss {found}), where transformers says: {(ending.stderr.splitlines() or ['nothing'])[-1]}"
        reference = float(answer.read_text())
        if found and math.isclose(found[1], reference, rel_tol=1e-4):
            return None
        return f"loss {found}; Hugging Face's is {reference}"

    return judge


def _has_dropout(config: Path) -> bool:
    try:
        settings = json.loads(right.read(config))
    except (OSError, ValueError):
        return False
    return any("dropout" in key and value for key, value in settings.items())


def conserved(kind: str, given: str) -> Judge:
    """prepare: every record ended in a document or in a count; what was kept are the texts of the input."""

    def judge(case: Case) -> str | None:
        read, rejected, kept = right.prepared(case.box / "out")
        if len(kept) + rejected != read:
            return f"{len(kept)} kept and {rejected} rejected of {read} read"
        if kind == "lines":
            path = case.box / given
            if path.stat().st_size > guard.HASHED_BYTES:
                return None
            content = right.unpacked(right.read(path), path.suffix)
            if content is None:
                return None
            records, texts = right.texts_of_lines(content)
            if records != read:
                return f"{read} documents read, an independent reader finds {records} records"
            wanted = sorted(set(texts))
            if sorted(kept) != wanted:
                extra, lost = set(kept) - set(wanted), set(wanted) - set(kept)
                return (
                    f"{len(extra)} texts that the input hasn't ({list(extra)[:1]}), {len(lost)} lost ({list(lost)[:1]})"
                )
        elif kind == "folder":
            folder = case.box / "texts/folder"
            found = folder.rglob("*.txt") if folder.is_dir() else [folder]
            files = [path for path in found if path.is_file() and not path.is_symlink()]  # links leave the folder
            if read != len(files):
                return f"{read} documents read of {len(files)} files"
            files = [path for path in files if path.stat().st_size < guard.HASHED_BYTES]  # others are rejected
            texts = [right.read(path).removeprefix(b"\xef\xbb\xbf") for path in files]
            if sorted(kept) != sorted({text for text in texts if right.usable(text)}):
                return "other texts than the files'"
        return None

    return judge


def same_texts(case: Case) -> str | None:
    """prepare with a tokenizer of others: the texts come back, or a warning says that they don't."""
    _, _, kept = right.prepared(case.box / "out")
    _, wanted = right.texts_of_lines(right.read(case.box / "texts/docs.jsonl"))
    if sorted(kept) == sorted(wanted) or "WARNING" in case.ending.stdout + case.ending.stderr:
        return None
    lost = len(set(wanted) - set(kept))
    return f"{lost} of {len(wanted)} texts don't come back from the tokens, and nothing is said"


# ---------------------------------------------------------------------------------------------------------- arranging


def without_run(world: World) -> None:
    shutil.rmtree(world.box / "run")


def with_lock(world: World) -> None:
    """A lock that a holder on another machine has left."""
    holder = {"host": "elsewhere", "machine": "boot pid:[1]", "pid": 4711, "since": "2026-01-01", "token": "t"}
    (world.box / "run/lock").write_text(json.dumps(holder))
    import os

    os.utime(world.box / "run/lock", (1e9, 1e9))


def seal_data(world: World) -> None:
    for split in ("train", "validation"):
        reseal.reseal_dataset(world.box / "data" / split)


def seal_run(world: World) -> None:
    for folder in (*(world.box / "run/checkpoints").glob("step-*"), *(world.box / "store").glob("step-*")):
        if re.fullmatch(r"step-\d{8}", folder.name):
            reseal.reseal_checkpoint(folder)


# ----------------------------------------------------------------------------------------------------------- the verbs


def _data() -> VerbSubject:
    return VerbSubject(
        (make_data, make_run),
        ("trainer.verbs.data", "trainer.run.provenance", *LAUNCH),
        {
            "verify": Scenario(("data", "verify", "data"), DATASET, whole_dataset, seals=seal_data, weight=3),
            "stats": Scenario(("data", "stats", "data"), DATASET, seals=seal_data),
            "show": Scenario(("data", "show", "data", "50"), DATASET, seals=seal_data, weight=2),
            "index": Scenario(("data", "index", "data"), DATASET, writes=(f"{BOX}/data",), seals=seal_data),
            "at": Scenario(
                ("data", "at", "run", "step=2"),
                (*DATASET, "run/config.yaml", "run/history.json", "run/history.json", "run/tokenizer/*.json"),
                seals=seal_data,
                weight=2,
            ),
        },
    )


def _checkpoint() -> VerbSubject:
    return VerbSubject(
        (make_data, make_run),
        ("trainer.verbs.checkpoint", *LAUNCH),
        {
            "verify": Scenario(
                ("checkpoint", "verify", "run"), CHECKPOINT, whole_checkpoints, seals=seal_run, weight=2
            ),
            "list": Scenario(("checkpoint", "list", "run"), CHECKPOINT, seals=seal_run),
            "show": Scenario(("checkpoint", "show", "run"), CHECKPOINT, seals=seal_run),
        },
    )


PREPARE = (
    *("data.output=out", "data.validation_fraction=0", "data.workers=1", "data.tokenizer.train.vocab_size=300"),
    *("data.shard_bytes=2000", "data.block_tokens=500"),
)


def _prepare() -> VerbSubject:
    def scenario(given: str, targets: tuple[str, ...], kind: str, weight: int = 1) -> Scenario:
        arguments = ("prepare", f"data.input={given}", *PREPARE)
        return Scenario(arguments, targets, conserved(kind, given), writes=(f"{BOX}/out",), weight=weight)

    lines = {
        ending: scenario(f"texts/docs.jsonl{ending}", (f"texts/docs.jsonl{ending}",), "lines")
        for ending in ("", ".gz", ".zst")
    }
    return VerbSubject(
        (make_texts, make_tokenizer),
        ("trainer.verbs.prepare", *LAUNCH, "gigatoken"),
        {
            "folder": scenario("texts/folder", ("texts/folder/*.txt", "texts/folder/deep/*.txt"), "folder"),
            **{f"jsonl{ending}": each for ending, each in lines.items()},
            "tar": scenario("texts/docs.tar", ("texts/docs.tar",), "tar", 2),
            "samples": scenario("texts/samples.tar", ("texts/samples.tar",), "tar"),
            "tokenizer": Scenario(
                ("prepare", "data.input=texts/docs.jsonl", "data.tokenizer.path=tokenizer", *PREPARE),
                ("tokenizer/tokenizer.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
                same_texts,
                writes=(f"{BOX}/out",),
                weight=2,
            ),
        },
        on_ranks=False,
    )


def _pretrain() -> VerbSubject:
    store = "checkpoint.dir=file://STORE"
    one = ("train.steps=1",)

    def from_folder(key: str, folder: str, weight: int = 1) -> Scenario:
        return Scenario(
            (*RUN, *one, *key.split()),
            tuple(f"{folder}/{name}" for name in (*HF, *(("*.index.json",) * 2 if folder == "sharded" else ()))),
            same_as_transformers(folder),
            writes=(f"{BOX}/run",),
            arrange=without_run,
            observe=observe_loss,
            codes=(3,),
            weight=weight,
        )

    common = {"observe": observe_loss, "judge": same_loss}
    return VerbSubject(
        (make_data, make_run, make_models),
        (
            *("trainer.verbs.pretrain", *LAUNCH, "torch._dynamo", "deepspeed", "rich.console", "PIL.PngImagePlugin"),
            *("trainer.planning.memory", "trainer.planning.fit", "deepspeed.module_inject.auto_ep_layer"),
            *("torch.profiler._cupti_monitor", "safetensors.numpy"),
            *("matplotlib.figure", "matplotlib.backends.backend_agg", "transformers.models.auto.modeling_auto"),
            *("transformers.models.llama.modeling_llama", "transformers.models.qwen3.modeling_qwen3", "fsspec"),
        ),
        {
            "data": Scenario(
                OWN_RUN[:-1] + one,
                DATASET,
                writes=(f"{BOX}/run",),
                arrange=without_run,
                seals=seal_data,
                weight=3,
                **common,
            ),
            "resume": Scenario(
                OWN_RUN, CHECKPOINT, writes=(f"{BOX}/run",), seals=seal_run, codes=(3,), weight=3, **common
            ),
            "run": Scenario(
                (*OWN_RUN, "run.lock_timeout_s=10"),
                RUN_FILES,
                writes=(f"{BOX}/run",),
                arrange=with_lock,
                weight=2,
                **common,
            ),
            "store": Scenario(
                (*OWN_RUN, store),
                tuple(target.replace("run/checkpoints", "store") for target in CHECKPOINT),
                writes=(f"{BOX}/run", f"{BOX}/store"),
                arrange=without_run,
                seals=seal_run,
                codes=(3,),
                weight=2,
                **common,
            ),
            "init_from": from_folder("model.init_from=model", "model", 2),
            "init_from sharded": from_folder("model.init_from=sharded", "sharded"),
            "hf": from_folder("model=hf model.path=model", "model", 2),
            "hf sharded": from_folder("model=hf model.path=sharded", "sharded"),
        },
    )


def _reader(verb: str, *arguments: str, judge: Judge, writes: tuple[str, ...] = (), **more: object) -> Scenario:
    """evaluate, generate or export, of a run whose checkpoints or files were mutated."""
    targets = (
        *CHECKPOINT,
        "run/config.yaml",
        "run/config.yaml",
        "run/tokenizer/*.json",
        "run/tokenizer/*.json",
        "run/facts.json",
    )
    if verb == "evaluate":
        targets = (*targets, "data/validation/manifest.json", "data/validation/*.index", "data/validation/*.tar")
    return Scenario((verb, "run.dir=run", *arguments), targets, judge, writes=writes, seals=seal_run, **more)  # type: ignore[arg-type]


def _evaluate() -> VerbSubject:
    scenario = _reader("evaluate", judge=same_output_or_config, writes=(f"{BOX}/run/logs", f"{BOX}/run/evaluations"))
    return VerbSubject(
        (make_data, make_run), ("trainer.verbs.evaluate", *LAUNCH, "torch._dynamo"), {"evaluate": scenario}
    )


def _generate() -> VerbSubject:
    scenario = _reader("generate", "prompt=the tree", "max_tokens=8", judge=same_output_or_config, is_text=True)
    return VerbSubject(
        (make_data, make_run), ("trainer.verbs.generate", *LAUNCH, "torch._dynamo"), {"generate": scenario}
    )


def _export() -> VerbSubject:
    writes = (f"{BOX}/run/export", f"{BOX}/run/exports.jsonl")
    scenario = _reader("export", judge=same_export, writes=writes, observe=observe_export)
    return VerbSubject((make_data, make_run), ("trainer.verbs.export", *LAUNCH), {"export": scenario})


VERBS: dict[str, Callable[[], VerbSubject]] = {
    "data": _data,
    "checkpoint": _checkpoint,
    "prepare": _prepare,
    "pretrain": _pretrain,
    "evaluate": _evaluate,
    "generate": _generate,
    "export": _export,
}
