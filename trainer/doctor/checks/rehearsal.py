"""A rehearsal of what must hold when a node dies: all ranks of this allocation train a small model, are killed in the
middle, go on from the newest checkpoint, and must end with the bits of a run that nobody disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trainer.checkpoint.folders import folder_of
from trainer.doctor.check import Check, Diagnosis, Finding, RankReading, Station, hosts_of, odd_ones
from trainer.doctor.forker import Forked, Forker
from trainer.errors import BanyanError
from trainer.machine.host import free_port
from trainer.machine.process import RUN_FOLDER_VARIABLE, die_with

STEPS, EVERY, KILLED_AFTER = 20, 4, 6
CALM, KILLED = "calm", "killed"
KILL = "kill"  # what rank 0 notes when all are to be killed
LOOK_S, LOOK_AT_BOARD_S = 0.02, 0.2
WORDS = ("tree", "root", "stone", "rain", "leaf", "wind", "moss", "bark")
MODEL = (
    *("model=tiny", "model.hidden_size=64", "model.intermediate_size=128", "model.num_hidden_layers=2"),
    *("model.num_attention_heads=4", "model.num_key_value_heads=2"),
)
PREPARED = (
    "data.tokenizer.train.vocab_size=300",
    "data.validation_fraction=0",
    "data.deduplicate=false",
    "data.workers=1",
)


def measure(station: Station) -> dict[str, Any]:
    """Trains whole, killed, and on; what became of it, in this rank's eyes. Each rank is started beside its doctor."""
    mesh, folder = station.mesh, station.folder
    found: dict[str, Any] = {"seconds": {}}
    with Forker(folder, mesh.rank) as forker:
        problem = _prepare(folder) if mesh.is_main else None
        if problem := mesh.first(problem):
            return {"problem": problem}
        for start, name_, kills in (("whole", CALM, False), ("killed", KILLED, True), ("on", KILLED, False)):
            began = time.monotonic()
            problem = _start(station, forker, name_, kills=kills)
            found["seconds"][start] = time.monotonic() - began
            if problem := mesh.first(problem):
                return found | {"problem": f"{start}: {problem}"}
            if kills and mesh.is_main:
                found["killed_at"] = _last_step(folder / KILLED)
    if mesh.is_main:
        found |= {name_: _outcome(folder / name_) for name_ in (CALM, KILLED)}
        found["resumed"] = _resumed(folder / KILLED)
    return found


def _prepare(folder: Path) -> str | None:
    """Token shards of a few random words; what went wrong."""
    draw = random.Random(0)
    try:
        with (folder / "text.jsonl").open("w", encoding="utf-8") as file:
            for number in range(200):
                file.write(json.dumps({"text": f"{number} {' '.join(draw.choices(WORDS, k=60))}"}) + "\n")
    except OSError as error:
        return str(error)
    command = ["prepare", f"data.input={folder / 'text.jsonl'}", f"data.output={folder / 'data'}", *PREPARED]
    environment = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE", "MASTER_ADDR")}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launch", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=die_with(os.getpid()),
    )
    return None if done.returncode == 0 else _last_line(done.stderr)


def _start(station: Station, forker: Forker, run: str, *, kills: bool) -> str | None:
    """This rank's part in a start of all, which with `kills` is killed after KILLED_AFTER steps; what went wrong."""
    mesh, settings = station.mesh, station.config.doctor
    port = mesh.from_main(free_port() if mesh.is_main else 0)
    command = [
        *("pretrain", *MODEL, f"data.path={station.folder / 'data'}", f"run.dir={station.folder / run}"),
        *("data.sequence_length=64", f"train.batch_size={4 * mesh.world_size}", "train.micro_batch_size=2"),
        *(f"train.steps={STEPS}", f"checkpoint.every={EVERY}", f"parallel.zero_stage={settings.zero_stage}"),
        *("evaluate.every=0", "evaluate.prompt=null", "track.every=1", "track.wandb.mode=disabled"),
        *("track.energy.measure=false", "schedule.warmup_steps=2", "optimizer.lr=1e-3", "launch.check_memory=false"),
    ]
    environment = {key: value for key, value in os.environ.items() if key != RUN_FOLDER_VARIABLE} | {
        "MASTER_PORT": str(port),
        "BANYAN_ERROR_FILE": str(station.folder / f"{run}-{mesh.rank}.error"),
    }
    with contextlib.suppress(OSError):
        Path(environment["BANYAN_ERROR_FILE"]).unlink()
    log = f"{run}-{mesh.rank}.log"
    try:
        child = forker.start(command, environment, log, timeout_s=settings.timeout_s)
    except BanyanError as error:
        return str(error)
    try:
        return _attend(station, child, run, station.folder / log, kills=kills)
    finally:
        child.kill()


def _attend(station: Station, child: Forked, run: str, output: Path, *, kills: bool) -> str | None:
    """Waits for the end of this rank's process, or with `kills` for the moment when the caller is to kill it: as every
    rank's, without a word. Rank 0 chooses it; others may see their process end by the loss of one that died first."""
    deadline = time.monotonic() + station.config.doctor.timeout_s
    while child.poll() is None:
        if time.monotonic() > deadline:
            return f"didn't end within doctor.timeout_s={station.config.doctor.timeout_s:g} s (see {output.name})"
        if kills and _is_to_die(station, run):
            return None
        time.sleep(LOOK_AT_BOARD_S if kills and not station.mesh.is_main else LOOK_S)
    if kills and station.board.told(KILL, 0):
        return None
    if child.exit_code == 0:
        return None if not kills else "ended before it could be killed"
    return _reason(station, run) or f"exit code {child.exit_code}: {_last_line(output.read_text(errors='replace'))}"


def _is_to_die(station: Station, run: str) -> bool:
    if not station.mesh.is_main:
        return station.board.told(KILL, 0) is not None
    run_dir = station.folder / run
    if _last_step(run_dir) < KILLED_AFTER or not (folder_of(run_dir, EVERY) / "COMPLETE").is_file():
        return False
    station.board.tell(KILL, "now")
    return True


def _reason(station: Station, run: str) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads((station.folder / f"{run}-{station.mesh.rank}.error").read_text())["message"])
    return None


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    """Whole rows of metrics.jsonl."""
    rows = []
    with contextlib.suppress(OSError):
        for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                rows.append(json.loads(line))
    return rows


def _last_step(run_dir: Path) -> int:
    return max((row["step"] for row in _rows(run_dir)), default=0)


def _outcome(run_dir: Path) -> dict[str, Any]:
    """Losses and gradient norms by step, and a hash of the last checkpoint's tensors."""
    rows = {row["step"]: [row["train/loss"], row["train/grad_norm"]] for row in _rows(run_dir) if "train/loss" in row}
    digest = hashlib.sha256()
    for file in sorted((run_dir / "checkpoints" / f"step-{STEPS:08d}").glob("*.safetensors")):
        digest.update(file.name.encode() + file.read_bytes())
    return {"course": [[step, *rows[step]] for step in sorted(rows)], "weights": digest.hexdigest()}


def _resumed(run_dir: Path) -> int | None:
    """The step that the second start went on from, as its log says."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = (run_dir.parent / f"{KILLED}-0.log").read_text(errors="replace")
        return int(text.split("going on from ")[1].splitlines()[0].rsplit("step-", 1)[1])
    return None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def judge(readings: list[RankReading], station: Station) -> Diagnosis:
    """Whether the killed run has the whole run's bits."""
    diagnosis, first = Diagnosis(), readings[0].values
    if problem := first.get("problem"):
        odd, _ = odd_ones(readings, lambda reading: reading.values.get("problem"))
        diagnosis.findings.append(Finding(f"training {problem}", hosts_of(odd)))
        return diagnosis
    calm, killed, times = first[CALM], first[KILLED], first["seconds"]
    what = f"killed after step {first['killed_at']} of {STEPS}, went on from step {first['resumed']}"
    if calm == killed and first["resumed"] is not None:
        where = f"{station.mesh.world_size:,} ranks, ZeRO stage {station.config.doctor.zero_stage}"
        took = f"{times['whole']:.1f} s whole; {times['killed']:.1f} s and {times['on']:.1f} s"
        diagnosis.measured.append(f"{where}: {what}: losses, norms and checkpoint are the same bits ({took})")
        return diagnosis
    differs = next((a[0] for a, b in zip(calm["course"], killed["course"], strict=False) if a != b), None)
    where = f"from step {differs} on" if differs is not None else "in the weights of the last checkpoint"
    diagnosis.findings.append(
        Finding(f"{what}, and isn't the run that nobody disturbed {where}: look for a rank that computes otherwise")
    )
    return diagnosis


CHECK = Check("rehearsal", measure, judge)
