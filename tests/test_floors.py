"""The house: imports only go down, in no circle, and nothing heavy stands on the way to `banyan --help`."""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.config import Data

ROOT = Path(__file__).parents[1]

# The rooms from the top floor to the ground; docs/ARCHITECTURE.md shows them as a picture.
FLOORS = (
    ("launch",),
    ("trainer.verbs",),
    ("trainer.adapt", "trainer.serve"),
    ("trainer.run", "trainer.export"),
    ("trainer.evaluate", "trainer.report"),
    ("trainer.engine", "trainer.explain", "trainer.planning", "trainer.doctor"),
    ("trainer.checkpoint", "trainer.objective", "trainer.rules"),
    ("trainer.data", "trainer.model", "trainer.ranks", "trainer.track"),
    ("trainer.config",),
    ("trainer.machine",),
    ("trainer.errors", "trainer"),
)
# Functions that several modules may define under one name, read with the module's: `muon.build`.
SHARED_NAMES = (
    "main",  # of verbs and other programs
    "run",  # of launchers, and the recipes behind `main`
    *("build", "settings", "open_sink"),  # what each file of a kind has: optimisers, objectives, sinks
    *("read", "parts"),  # the same: readers of sources
    *("measure", "judge"),  # what each check of the doctor has
    "find",  # of kinds of personal data
    *("folder_suffix", "write"),  # what each format of export has
    *(
        "initialize",
        "check_tokenizer",
        "encode",
    ),  # the model and its engine; datasets and first weights; messages, rows
)
HEAVY = ("torch", "deepspeed", "ray", "wandb", "transformers")


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    files = [path for package in ("trainer", "launch") for path in (ROOT / package).rglob("*.py")]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(statement: ast.stmt) -> Iterator[str]:
    """The dotted names that an import statement may bind a module by, most specific last."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom) and statement.module and statement.level == 0:
        yield statement.module
        yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """The product's modules that `module` imports, at its top or inside functions."""
    statements = ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8")))
    return frozenset(name for statement in statements for name in imported(statement) if name in modules())


def top_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a module is imported: not the bodies of functions, nor what only type checkers read."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        yield statement
        for part in ("body", "orelse", "finalbody", "handlers"):
            for inner in getattr(statement, part, []):
                yield from top_statements([inner] if isinstance(inner, ast.stmt) else inner.body)


@functools.cache
def imported_at_start(module: str) -> frozenset[str]:
    """All names, the product's and others', that importing `module` imports by itself."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    return frozenset(name for statement in top_statements(tree.body) for name in imported(statement))


def room_of(module: str) -> str:
    rooms = [room for floor in FLOORS for room in floor if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len)


def floor_of(room: str) -> int:
    return next(number for number, floor in enumerate(reversed(FLOORS), start=1) if room in floor)


def test_imports_only_go_down() -> None:
    upward = [
        f"{module} imports {other}"
        for module in modules()
        for other in imports_of(module)
        if room_of(other) != room_of(module) and floor_of(room_of(other)) >= floor_of(room_of(module))
    ]
    assert not upward, "\n".join(sorted(upward))


def test_every_room_has_a_floor() -> None:
    rooms = {".".join(module.split(".")[:2]) for module in modules() if module.startswith("trainer.")}
    assert rooms == {room for floor in FLOORS for room in floor if "." in room}


def test_no_imports_in_a_circle() -> None:
    left = {module: set(imports_of(module)) - {module} for module in modules()}
    while free := [module for module, needed in left.items() if not needed & left.keys()]:
        for module in free:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


def test_no_verb_imports_another() -> None:
    for module in modules():
        if module.startswith("trainer.verbs."):
            assert not [other for other in imports_of(module) if other.startswith("trainer.verbs.")], module


def test_only_one_room_imports_deepspeeds_insides() -> None:
    allowed = ("trainer.engine.deepspeed", "trainer.engine.sequence", "trainer.ranks.mesh", "trainer.ranks.extensions")
    for module in modules():
        inside = [name for name in all_imports(module) if name.startswith("deepspeed.")]
        assert not inside or module.startswith(allowed), f"{module} imports {inside[0]}"


def all_imports(module: str) -> set[str]:
    statements = ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8")))
    return {name for statement in statements for name in imported(statement)}


@pytest.mark.parametrize("heavy", HEAVY)
def test_help_imports_nothing_heavy(heavy: str) -> None:
    seen, waiting = set(), ["launch.__main__", "launch.help", "launch.compose"]
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        names = imported_at_start(module)
        assert not [name for name in names if name.split(".")[0] == heavy], f"{module} imports {heavy} at its top"
        waiting += [name for name in names if name in modules()]


def test_one_name_means_one_thing() -> None:
    """No class, and no public function at the top of a module, is defined twice."""
    places: dict[str, list[str]] = {}
    for module, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for name in [*functions, *classes]:
            places.setdefault(name, []).append(module)
    public = {name: found for name, found in places.items() if not name.startswith("_")}
    assert not {name: found for name, found in public.items() if len(found) > 1 and name not in SHARED_NAMES}
    assert all(len(public.get(name, [])) > 1 for name in SHARED_NAMES), "SHARED_NAMES lists what is defined once"


def test_a_configuration_is_changed_by_making_another() -> None:
    """No statement assigns to a key of one: `config.train.steps = 3`. Whoever settles a value uses with_values."""
    sections = {"config", "data", "train", "model", "run", "parallel", "checkpoint", "changed", "base"}
    for module, path in modules().items():
        for statement in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            for target in (leaf for each in targets for leaf in ast.walk(each) if isinstance(leaf, ast.Attribute)):
                written = ast.unparse(target)
                if written.split(".")[0] in sections and not module.startswith(("trainer.model.", "launch.compose")):
                    raise AssertionError(f"{module}, line {statement.lineno}: {written} is assigned to")


def test_every_knob_of_prepare_says_whether_it_decides_the_shards() -> None:
    """A setting that was forgotten would make old output count as up to date."""
    free = {"input", "include", "exclude", "output", "workers", "tokenizer"}  # inputs are compared file by file
    free |= {"reference", "teacher"}  # models, which count by their weights
    free |= {"refuse_licences"}  # which ends prepare, or changes nothing
    free |= {"clean", "near", "paragraphs", "augment", "encryption"}  # sections with knobs of their own
    training = {"path", "train", "validation", "sequence_length", "mask_documents", "shuffle_shards", "verify_bytes"}
    training |= {"packing", "long_documents", "temperature", "stages"}
    training |= {"cache", "cache_bytes", "on_bad_shard", "shard_patience_s"}
    for item in dataclasses.fields(Data):
        decides = item.metadata.get("decides", False)
        assert decides != (item.name in free | training | {"prefetch"}), item.name
