"""Look at checkpoints: `banyan checkpoint verify|list|show DIR`.

DIR is a run directory, or the folder of one checkpoint.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trainer.checkpoint.complete import read_complete
from trainer.checkpoint.find import find_problem, find_problems
from trainer.checkpoint.folders import PARTIAL, folder_of, list_steps, step_of
from trainer.checkpoint.fragment import WEIGHT
from trainer.checkpoint.index import FP32_BYTES
from trainer.checkpoint.reader import CheckpointReader
from trainer.checkpoint.state import read_state
from trainer.data.tokens.history import History
from trainer.engine.loop import Progress
from trainer.errors import ConfigError, InputError
from trainer.machine.sealing.user_key import KeyProblem
from trainer.machine.terminal import show
from trainer.model.partition import cut_dimension
from trainer.run.subcommand import choose_command

SHAPES = ((1, 0, 1), (2, 1, 1), (8, 1, 1), (8, 3, 1), (8, 1, 2), (64, 3, 1))  # ranks, ZeRO stage, tensor degree

HELP = """usage: banyan checkpoint COMMAND DIR

  verify DIR    hash every file again, look for every element; a line for each problem, exit code 2 if there is any
  list DIR      the checkpoints of a run: step, tokens, time, size, who wrote it, whether it is whole (not hashed)
  show DIR      what is in one: state, parameters by group, and the memory that a load takes

DIR is a run directory (show takes its newest whole checkpoint), or the folder of one checkpoint.
"""


def main(arguments: list[str]) -> int:
    """Runs `banyan checkpoint COMMAND DIR`; the exit code."""
    command = choose_command("checkpoint", COMMANDS, arguments, HELP)
    if command is None:
        return 0
    if len(arguments) != 2:
        raise ConfigError(f"usage: banyan checkpoint {arguments[0]} DIR, with one run directory or checkpoint.")
    return command(_folders(Path(arguments[1]).expanduser()))


def _folders(folder: Path) -> list[Path]:
    """The checkpoints, whole or not, that DIR stands for, in ascending order. InputError if there is none."""
    if step_of(folder.resolve().name) is not None and folder.is_dir():
        return [folder]
    found = [folder_of(folder, step) for step in list_steps(folder)]
    if not found:
        raise InputError(f"{folder}: no checkpoint there; give a run directory, or a folder such as step-00001000.")
    return found


# ---------------------------------------------------------------------------------------------------------- verify


def _verify(folders: list[Path]) -> int:
    """Hashes everything and looks for every element; a line for each problem, 2 if there is any."""
    problems = 0
    for folder in folders:
        found = list(_problems(folder))
        for problem in found:
            show(f"{folder}: {problem}")
        if not found:
            show(f"{folder}: OK, {_size(folder)}")
        problems += len(found)
    return 2 if problems else 0


def _problems(folder: Path) -> Iterator[str]:
    """What is wrong with files, and if nothing is, with what they hold: the reader looks for every element."""
    damaged = False
    for problem in find_problems(folder):
        damaged = True
        yield problem
    if damaged:
        return
    try:
        reader = CheckpointReader(folder)
        reader.stated("progress", Progress.from_json)
        reader.stated("history", History.from_json)
        yield from reader.part_problems()
        if not any(kind == WEIGHT for _, kind in reader.kinds):
            yield f"no weights: it holds {', '.join(sorted({kind for _, kind in reader.kinds})) or 'nothing'}"
    except KeyProblem:
        raise  # of all checkpoints alike
    except InputError as error:
        yield f"can't be read ({error})"


# ------------------------------------------------------------------------------------------------------------ list


def _list(folders: list[Path]) -> int:
    """A line for each checkpoint, and for each attempt that isn't one."""
    rows = [["step", "tokens", "written", "bytes", "written by", ""]]
    for folder in folders:
        problem = find_problem(folder, hashes=False)
        try:
            state = read_state(folder)
            known = [f"{state['tokens']:,}", _when(state["time"]), f"{_bytes(folder):,}", _shape(state["shape"])]
        except InputError:
            known = ["?"] * 4
        rows.append([str(step_of(folder.resolve().name)), *known, f"not whole ({problem})" if problem else "whole"])
    widths = [max(len(row[place]) for row in rows) for place in range(5)]
    for row in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=False))
        show("  ".join([*cells, row[5]]).rstrip())
    for entry in sorted(folders[0].parent.iterdir()):
        if PARTIAL.fullmatch(entry.name):
            show(f"{entry.name}: under way, or cut short; the next start removes it")
    return 0


# ------------------------------------------------------------------------------------------------------------ show


def _show(folders: list[Path]) -> int:
    """Prints what the newest whole one holds."""
    problems = []
    for folder in reversed(folders):
        problem = find_problem(folder, hashes=False)
        if problem is None:
            _describe(CheckpointReader(folder))
            return 0
        problems.append(f"{folder}: not whole ({problem})")
    raise InputError(f"{'; '.join(problems)}. Restore the files or give another checkpoint.")


def _describe(reader: CheckpointReader) -> None:
    state, precision = reader.state, reader.state["config"]["train"]["precision"]
    show(f"{reader.folder}: {_size(reader.folder)}")
    show(f"  step         {state['step']:,}")
    show(f"  tokens       {state['tokens']:,} in {state['position']:,} sequences")
    show(f"  written      {_when(state['time'])}, by {_shape(state['shape'])}, {precision}")
    best = reader.stated("progress", Progress.from_json)
    if best.best_step is not None:
        what = "best loss " if best.best_loss >= 0 else "best value"  # of a task's, kept negated
        show(f"  {what}   {abs(best.best_loss):.4f} at step {best.best_step:,}")
    elements = sum(math.prod(shape) for shape in reader.shapes.values())
    show(f"  model        {state['config']['model']['name']}, {elements:,} parameters")
    show("  holds:")
    _print_groups(reader)
    show("  a load needs, per rank, for weights and optimiser (gradients and activations come on top):")
    planned = state["config"]["model"].get("path") is not None  # how transformers would cut it isn't known here
    for ranks, stage, tensor in SHAPES:
        if planned and tensor > 1:
            continue
        needed = load_bytes(reader, ranks=ranks, stage=stage, tensor=tensor, bf16=precision != "fp32")
        show(f"    {_shape({'world_size': ranks, 'zero_stage': stage, 'tensor': tensor}):<32} {_readable(needed):>10}")
    largest = FP32_BYTES * max(map(math.prod, reader.shapes.values()))
    show(f"    and at most {_readable(largest)} more while it reads, the largest parameter")


def _print_groups(reader: CheckpointReader) -> None:
    """Parameters alike but for the layer's number, with their sizes and kinds."""
    groups: dict[tuple[str, tuple[int, ...], str], int] = {}
    for name, shape in reader.shapes.items():
        kinds = ", ".join(kind for parameter, kind in reader.kinds if parameter == name)
        group = (re.sub(r"\.\d+\.", ".*.", name), shape, kinds)
        groups[group] = groups.get(group, 0) + 1
    width = max(len(name) for name, _, _ in groups)
    for (name, shape, kinds), count in groups.items():
        size = f"{count} x {' x '.join(map(str, shape))}"
        show(f"    {name:<{width}}  {size:<22} {count * math.prod(shape):>15,}  {kinds}")


def load_bytes(reader: CheckpointReader, *, ranks: int, stage: int, tensor: int, bf16: bool) -> int:
    """Bytes of weights and optimiser state that a rank holds after a load, about.

    At stages 1 to 3 the weights that forward uses stand beside the fp32 ones of the optimiser.
    """
    data_ranks = ranks // tensor
    total = 0
    for name, shape in reader.shapes.items():
        held = math.prod(shape) / (tensor if cut_dimension(name) is not None else 1)
        state = held * FP32_BYTES * sum(parameter == name for parameter, _ in reader.kinds)
        working = held * (2 if bf16 else FP32_BYTES)
        if stage == 0:
            total += math.ceil(state)
        else:
            total += math.ceil(state / data_ranks + (working / data_ranks if stage == 3 else working))
    return total


def _shape(shape: dict[str, int]) -> str:
    """A shape of run in words."""
    ranks = shape["world_size"]
    degrees = [f"{name} {shape[name]}" for name in ("tensor", "sequence", "expert") if shape.get(name, 1) > 1]
    return ", ".join([f"{ranks} rank{'s' * (ranks > 1)}", f"ZeRO {shape['zero_stage']}", *degrees])


def _bytes(folder: Path) -> int:
    return sum(described.bytes for described in read_complete(folder).values())


def _size(folder: Path) -> str:
    return f"{_bytes(folder):,} bytes in {len(read_complete(folder))} files"


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


COMMANDS: dict[str, Callable[[list[Path]], int]] = {"verify": _verify, "list": _list, "show": _show}
