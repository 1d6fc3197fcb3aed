"""The process of a verb: it has imported what the verb needs, and forks a child for each case that it is told.

python -m tests.fuzz.verb_process pretrain FOLDER      reads seeds, a line each; answers with a JSON line each
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import resource
import sys
from pathlib import Path
from random import Random
from typing import Any

from launch.compose import compose
from launch.verbs import VERBS as LAUNCH_VERBS
from tests.fuzz import guard, mutate_bytes, mutate_files, mutate_formats, mutate_values
from tests.fuzz.child import SECRET, Ending
from tests.fuzz.mutate_values import Traps
from tests.fuzz.scenarios import VERBS, Case, Scenario, VerbSubject
from tests.fuzz.subjects import World
from tests.warm import draw_any_curves

MEMORY_BYTES = 2**33  # of the process, whose children have their own limits
LINES = 3  # most of stderr
LONGEST_LINE = 2000
SLOW_S = 10.0  # of processor time
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a case showed. `wrong` is empty where all was as it has to be."""

    verb: str
    seed: int
    scenario: str
    mutations: tuple[str, ...]
    code: int
    wrong: str
    where: str
    seconds: float
    stdout: str
    stderr: str
    stack: str


class VerbProcess:
    """Runs the cases of one verb, in folders below `root`."""

    def __init__(self, verb: str, root: Path) -> None:
        self.verb = verb
        self.subject = VERBS[verb]()
        for name in self.subject.imports:
            importlib.import_module(name)
        if self.subject.on_ranks:
            _load_op()
        _fill_caches(verb, self.subject)
        self.world = World(root)
        self.world.make(self.subject.make)
        self._pristine: dict[str, tuple[Ending, object]] = {}
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1, f"{threads} threads in a process that forks"

    def run(self, seed: int) -> Verdict:
        """The case of `seed`."""
        draw = Random(f"{self.verb} {seed}")
        names = [name for name, scenario in self.subject.scenarios.items() for _ in range(scenario.weight)]
        name = draw.choice(names)
        scenario = self.subject.scenarios[name]
        pristine, expected = self._pristine_of(name)
        self._begin(scenario)
        mutations = tuple(self._mutate(draw, scenario) for _ in range(draw.choice((1, 1, 1, 2, 3))))
        resealed = scenario.seals is not None and draw.random() < 0.35
        if resealed and scenario.seals:
            scenario.seals(self.world)
            mutations = (*mutations, "resealed")
        before = guard.snapshot(self.world.case)
        ending = self.world.command(*self._arguments(scenario))
        case = Case(self.world, ending, pristine, expected, mutations, resealed)
        wrong = self._judge(case, scenario, before)
        return Verdict(
            verb=self.verb,
            seed=seed,
            scenario=name,
            mutations=mutations,
            code=ending.code,
            wrong=wrong,
            where=_where(ending) if wrong else "",
            seconds=round(ending.seconds, 2),
            stdout=ending.stdout[-3000:],
            stderr=ending.stderr[-6000:],
            stack=ending.stack[-3000:],
        )

    def _arguments(self, scenario: Scenario) -> list[str]:
        return [argument.replace("STORE", f"{self.world.box}/store") for argument in scenario.arguments]

    def _begin(self, scenario: Scenario) -> None:
        self.world.restore()
        if scenario.arrange:
            scenario.arrange(self.world)

    def _pristine_of(self, name: str) -> tuple[Ending, object]:
        """How the scenario ends without a mutation, and what it leaves."""
        if name not in self._pristine:
            scenario = self.subject.scenarios[name]
            self._begin(scenario)
            before = guard.snapshot(self.world.case)
            ending = self.world.command(*self._arguments(scenario))
            said = f"{ending.stdout}\n{ending.stderr}\n{ending.stack}"
            assert ending.code == 0, f"{self.verb} {name} fails without a mutation: {said}"
            case = Case(self.world, ending, ending, scenario.observe(self.world), (), False)
            wrong = self._judge(case, scenario, before)
            assert not wrong, f"{self.verb} {name} without a mutation: {wrong}\n{said}"
            self._pristine[name] = ending, case.expected
        return self._pristine[name]

    def _mutate(self, draw: Random, scenario: Scenario) -> str:
        files: list[Path] = []
        for _ in range(20):
            found = sorted(self.world.box.glob(draw.choice(scenario.targets)))
            files = [path for path in found if path.is_file() and path.stat().st_size < guard.HASHED_BYTES]
            if files:
                break
        if not files:
            return "nothing left"
        path = files[int(draw.random() * len(files))]
        if draw.random() < 0.15:
            how = mutate_files.mutate(draw, path, self.world.elsewhere)
        else:
            try:
                how = mutate_file(draw, path, self.world.traps)
            except Exception as error:  # an earlier mutation was here, and libraries raise what they like
                how = f"not mutated further ({type(error).__name__})"
        return f"{path.relative_to(self.world.box)}: {how}"

    def _judge(self, case: Case, scenario: Scenario, before: dict[str, str]) -> str:
        """What is wrong, or ""."""
        ending = case.ending
        if ending.timed_out or ending.code in (-24, -9):
            return f"doesn't end ({ending.seconds:.0f} s, {ending.cpu_s:.0f} s of processor)"
        if ending.code not in (0, 1, 2, *scenario.codes):
            return f"ends with {ending.code}"
        printed = ending.stdout + ending.stderr
        if "Traceback" in printed or ending.stack:
            return "traceback"
        if ending.heard:
            return f"{ending.heard[0]}"
        allowed = (*scenario.writes, "home", *(("elsewhere/folder",) if scenario.writes else ()))
        after = guard.snapshot(self.world.case)
        outside = guard.changed_outside(before, after, allowed)
        if outside:
            return f"changed outside: {', '.join(outside[:3])}"
        if SECRET in printed or _leaks(self.world, before, after, scenario):
            return "gives a secret away"
        if CONTROLS.search(ending.stderr if scenario.is_text else printed):
            return "prints control characters"
        lines = ending.stderr.splitlines()
        if len(lines) > LINES:
            return f"{len(lines)} lines on stderr"
        if max(map(len, lines), default=0) > LONGEST_LINE:
            return f"a line of {max(map(len, lines))} characters on stderr"
        if ending.code in (1, 2) and not printed.strip():
            return f"ends with {ending.code} without a word"
        if ending.code == 1 and not _is_storage(ending.stderr):
            return "ends with 1, but not for the disk"
        if ending.cpu_s > SLOW_S:
            return f"takes {ending.cpu_s:.0f} s of processor"
        if ending.code:
            return ""
        try:
            return scenario.judge(case) or ""
        except Exception as error:  # what was written can't be read
            return f"ends with 0, but the result can't be judged ({type(error).__name__}: {error})"


def _load_op() -> None:
    """Builds DeepSpeed's CPU op, if need be, and loads it: a child with a home of its own would build it anew."""
    from trainer.ranks.extensions import load_cpu_op

    load_cpu_op()


def _fill_caches(verb: str, subject: VerbSubject) -> None:
    """Does once what each child would do again: Hydra finds its plugins, its parser learns, matplotlib finds fonts."""
    if LAUNCH_VERBS[verb].schema is not None:
        arguments = next(iter(subject.scenarios.values())).arguments[1:]
        compose(verb, [argument for argument in arguments if not argument.startswith("run.dir=")])
    if "matplotlib.figure" in subject.imports:
        draw_any_curves()


def _is_storage(stderr: str) -> bool:
    words = (
        "permitted",
        "disk",
        "links that lead",
        "a folder where",
        "a file where",
        "is in its place",
        "could not be written",
        "not copied",
        "can't be written",
    )
    return any(word in stderr for word in words)


def _leaks(world: World, before: dict[str, str], after: dict[str, str], scenario: Scenario) -> bool:
    """Whether a file that the case wrote holds the secret."""
    changed = (name for name in after if before.get(name) != after[name] and name.startswith(scenario.writes or "?"))
    files = (world.case / name for name in changed if after[name][0].isdigit())
    return any(path.stat().st_size < guard.HASHED_BYTES and SECRET.encode() in path.read_bytes() for path in files)


def _where(ending: Ending) -> str:
    """The exception and the last place of ours in its traceback, or in the stack of a hang."""
    text = ending.stderr if "Traceback" in ending.stderr else ending.stack
    places = re.findall(r'File "[^"]*/((?:trainer|launch)/[^"]+)", line (\d+),? in (\w+)', text)
    frames = places[-1:] if text is ending.stderr else places[:1]
    place = f"{frames[0][0]}:{frames[0][1]} {frames[0][2]}" if frames else ""
    errors = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception|Interrupt|Warning)?: ", line)]
    errors = [line for line in errors if not line.startswith("banyan:")]
    return f"{errors[-1][:200] if errors else ''} [{place}]"


def mutate_file(draw: Random, path: Path, traps: Traps) -> str:
    """Mutates a file by what its name says it is; how."""
    content = path.read_bytes()
    name = path.name
    if name.endswith((".gz", ".zst")):
        content, how = mutate_formats.mutate_packed(draw, content, path.suffix, traps)
    elif name.endswith(".jsonl"):
        content, how = mutate_values.mutate_lines(draw, content, traps)
    elif name.endswith(".json") or name in ("COMPLETE", "lock"):
        content, how = mutate_values.mutate_json(draw, content, traps)
    elif name.endswith(".yaml"):
        content, how = mutate_values.mutate_yaml(draw, content, traps)
    elif name.endswith(".tar"):
        content, how = mutate_formats.mutate_tar(draw, content, traps)
    elif name.endswith(".index"):
        content, how = mutate_formats.mutate_npy(draw, content)
    elif name.endswith(".safetensors"):
        content, how = mutate_formats.mutate_safetensors(draw, content, traps)
    else:
        content, how = mutate_bytes.mutate(draw, content)
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # a lock's says whether its holder lives
    return how


def main(arguments: list[str]) -> int:
    """Serves seeds until there are no more."""
    verb, root = arguments
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))  # a mistake here ends this process alone
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    process = VerbProcess(verb, Path(root))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        answer: dict[str, Any] = dataclasses.asdict(process.run(int(line)))
        print(json.dumps(answer), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
