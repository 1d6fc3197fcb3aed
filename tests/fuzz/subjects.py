"""What is mutated: a small dataset, a run with two checkpoints, a Hugging Face folder, texts of every kind.

A verb process has one case folder, and makes what its verb needs in it once, so that every path inside stays true:

    case/              guarded: nothing here may change but what a scenario allows
      secret           in several places, where a ../ might find it
      elsewhere/       where links lead
      home/            the child's
      a/box/           where the child stands
        data/ run/ store/ model/ texts/
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tests.fuzz import child
from tests.fuzz.mutate_values import Traps

MODEL = (
    "hidden_size=16",
    "intermediate_size=32",
    "num_hidden_layers=1",
    "num_attention_heads=2",
    "num_key_value_heads=1",
)
RUN = (
    *("pretrain", "data.path=data", "run.dir=run", "data.sequence_length=32", "train.batch_size=2"),
    *("train.micro_batch_size=2", "train.precision=fp32", "schedule.warmup_steps=1", "evaluate.every=0"),
    *("checkpoint.every=1", "evaluate.bigram=false", "evaluate.prompt=null", "track.wandb.mode=disabled"),
)
OWN_RUN = (*RUN, *(f"model.{size}" for size in MODEL), "train.steps=3")


@dataclass(frozen=True)
class World:
    """The folders of a verb process."""

    root: Path

    @property
    def case(self) -> Path:
        return self.root / "case"

    @property
    def box(self) -> Path:
        return self.case / "a" / "box"

    @property
    def elsewhere(self) -> Path:
        return self.case / "elsewhere"

    @property
    def pristine(self) -> Path:
        return self.root / "pristine"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def traps(self) -> Traps:
        return Traps(self.elsewhere)

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Files that a case may not read."""
        secrets = [str(path) for path in self.case.rglob("secret")] if self.case.is_dir() else []
        return (*secrets, "/etc/passwd", "/dev/zero")

    def make(self, parts: tuple[Callable[[World], None], ...]) -> None:
        """What each case begins with; another verb's process in the same folders may have made it before."""
        made = self.root / "made" / " ".join(part.__name__ for part in parts)
        shutil.rmtree(self.case, ignore_errors=True)
        if not made.exists():
            self._begin()
            for part in parts:
                part(self)
            shutil.copytree(self.case, made, symlinks=True)
        shutil.rmtree(self.pristine, ignore_errors=True)
        shutil.copytree(made, self.pristine, symlinks=True)

    def _begin(self) -> None:
        for folder in (self.box, self.elsewhere, self.case / "home" / "tmp"):
            folder.mkdir(parents=True)
        self.reports.mkdir(exist_ok=True)
        for parent in (self.case, self.case / "a", self.box, self.elsewhere):
            for place in (parent, parent / "outside"):
                place.mkdir(exist_ok=True)
                (place / "secret").write_text(child.SECRET)

    def restore(self) -> None:
        """Begins a case."""
        shutil.rmtree(self.case, ignore_errors=True)
        if self.case.exists():  # folders of mode 000 where this isn't root
            for folder, _, _ in os.walk(self.case):
                os.chmod(folder, 0o700)
            shutil.rmtree(self.case)
        shutil.copytree(self.pristine, self.case, symlinks=True)

    def run(self, work: Callable[[], int]) -> child.Ending:
        """A child in this world."""
        return child.run(
            work,
            case=self.case,
            cwd=self.box,
            home=self.case / "home",
            reports=self.reports,
            forbidden=self.forbidden,
        )

    def command(self, *arguments: str) -> child.Ending:
        """A command of `banyan` in a child."""

        def work() -> int:
            from launch.cli import main

            return main(list(arguments))

        return self.run(work)

    def must(self, work: Callable[[], int] | tuple[str, ...], code: int = 0) -> None:
        """Work or a command that can't fail."""
        ending = self.command(*work) if isinstance(work, tuple) else self.run(work)
        assert ending.code == code, f"{work}: {ending.code}\n{ending.stdout}\n{ending.stderr}\n{ending.stack}"


# ---------------------------------------------------------------------------------------------------------- making


def make_data(world: World) -> None:
    """data/train of two shards, data/validation of one."""

    def work() -> int:
        from tests.corpus import make_dataset

        make_dataset(world.box / "data" / "train", documents=20, shards=2)
        make_dataset(world.box / "data" / "validation", documents=6, shards=1, seed=5)
        return 0

    world.must(work)


def make_run(world: World) -> None:
    """run/ stopped after step 2 of 3, with checkpoints of 1 and 2; store/ with the same."""
    url = f"checkpoint.dir=file://{world.box}/store"
    world.must((*OWN_RUN, url, "train.stop_at=2"), 85)
    shutil.rmtree(world.case / "home" / ".cache", ignore_errors=True)


def make_models(world: World) -> None:
    """model/ in one file, sharded/ in several with an index: Hugging Face folders of the data's vocabulary."""

    def work() -> int:
        from tests.hugging_face import save_model

        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        for folder, kind, shard in (("model", "llama", "1GB"), ("sharded", "qwen3", "20KB")):
            save_model(world.box / folder, kind, shard=shard, num_key_value_heads=1, **sizes | {"head_dim": 8})
        return 0

    world.must(work)
    for folder in ("model", "sharded"):
        shutil.copyfile(world.box / "data/train/tokenizer/tokenizer.json", world.box / folder / "tokenizer.json")
        (world.box / folder / "modeling_evil.py").write_text("open('../planted', 'w')\n")
        (world.box / folder / "configuration_evil.py").write_text("open('../planted', 'w')\n")


def make_texts(world: World) -> None:
    """texts/: a folder of text, lines of JSON, plain and packed, two kinds of tar."""
    from tests.corpus import write_texts

    texts = world.box / "texts"
    (texts / "folder" / "deep").mkdir(parents=True)
    documents = write_texts(24)
    for number, text in enumerate(documents[:6]):
        (texts / "folder" / ("deep" if number % 2 else ".") / f"{number}.txt").write_text(text)
    lines = "".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(documents)).encode()
    (texts / "docs.jsonl").write_bytes(lines)
    (texts / "docs.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    (texts / "docs.jsonl.zst").write_bytes(zstandard.compress(lines))
    (texts / "docs.tar").write_bytes(_tar({f"{number:04d}.txt": text for number, text in enumerate(documents)}))
    samples = {}
    for number, text in enumerate(documents[:8]):
        samples |= {f"s/{number:04d}.txt": text, f"s/{number:04d}.json": json.dumps({"url": "u"})}
    (texts / "samples.tar").write_bytes(_tar(samples))


def _tar(members: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def make_tokenizer(world: World) -> None:
    """tokenizer/: the data's own, as somebody gives it to prepare."""

    def work() -> int:
        from tests.corpus import make_tokenizer

        make_tokenizer().save(world.box / "tokenizer")
        return 0

    world.must(work)
