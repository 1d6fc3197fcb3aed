"""What ranks tell each other, as JSON: an object collective of torch's carries pickles, which run code where they land.

Values are None, booleans, numbers, strings, paths, expected errors, and lists, tuples and dictionaries of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from trainer.errors import BanyanError

KIND = "kind"  # the key that tells a tagged value from a dictionary, whose pairs are tagged, too


def encode(value: Any) -> bytes:
    """A value as JSON. TypeError for what has no form here."""
    return json.dumps(_tagged(value)).encode("ascii")


def decode(message: bytes) -> Any:
    """The value that `encode` was given. ValueError for anything else."""
    return _untagged(json.loads(message))


def broadcast(value: Any, group: torch.distributed.ProcessGroup, *, source: int = 0) -> Any:
    """The `value` of rank `source`, on every rank of the world; `group` is one on CPU tensors.

    Other ranks' values are left aside. An error that has no form here is raised on the source alone.
    """
    is_source = torch.distributed.get_rank() == source
    message = encode(value) if is_source else b""
    size = torch.tensor([len(message)])
    torch.distributed.broadcast(size, src=source, group=group)
    content = _as_tensor(message) if is_source else torch.empty(int(size.item()), dtype=torch.uint8)
    torch.distributed.broadcast(content, src=source, group=group)
    return decode(_as_bytes(content))


def gather(value: Any, group: torch.distributed.ProcessGroup) -> list[Any]:
    """Every rank's `value`, by rank, on every rank of `group`, which is one on CPU tensors."""
    ranks = torch.distributed.get_world_size(group)
    message = _as_tensor(encode(value))
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks)]
    torch.distributed.all_gather(sizes, torch.tensor([len(message)]), group=group)
    largest = max(int(size.item()) for size in sizes)
    padded = torch.zeros(largest, dtype=torch.uint8)
    padded[: len(message)] = message
    contents = [torch.empty(largest, dtype=torch.uint8) for _ in range(ranks)]
    torch.distributed.all_gather(contents, padded, group=group)
    return [decode(_as_bytes(content[: int(size.item())])) for content, size in zip(contents, sizes, strict=True)]


def _as_tensor(message: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


def _as_bytes(content: torch.Tensor) -> bytes:
    return content.numpy().tobytes()


def _tagged(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return {KIND: "path", "value": str(value)}
    if isinstance(value, BanyanError):
        return {KIND: "error", "name": type(value).__name__, "value": str(value)}
    if type(value) is list:
        return [_tagged(item) for item in value]
    if type(value) is tuple:
        return {KIND: "tuple", "value": [_tagged(item) for item in value]}
    if type(value) is dict:
        return {KIND: "dict", "value": [[_tagged(key), _tagged(item)] for key, item in value.items()]}
    raise TypeError(f"ranks can't tell each other a {type(value).__name__}: {value!r}")


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Callable[[], Any]] = {
        "path": lambda: Path(value["value"]),
        "error": lambda: _error_named(value["name"])(value["value"]),
        "tuple": lambda: tuple(_untagged(value["value"])),
        "dict": lambda: {_untagged(key): _untagged(item) for key, item in value["value"]},
    }
    return found[value[KIND]]()


def _error_named(name: str) -> type[BanyanError]:
    """An expected error's class; BanyanError itself for one that this rank hasn't imported."""
    return next((kind for kind in _errors(BanyanError) if kind.__name__ == name), BanyanError)


def _errors(kind: type[BanyanError]) -> Iterator[type[BanyanError]]:
    yield kind
    for derived in kind.__subclasses__():
        yield from _errors(derived)
