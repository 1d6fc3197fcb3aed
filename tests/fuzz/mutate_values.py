"""Mutations of values: JSON, YAML and lines of JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz import mutate_bytes

SECRET_VARIABLE = "FUZZ_SECRET"


@dataclass(frozen=True)
class Traps:
    """Paths that nothing may read or write by what a mutated file says."""

    folder: Path

    @property
    def names(self) -> tuple[str, ...]:
        """Names that lead out of where they are looked for."""
        ups = [f"{'../' * depth}outside/{name}" for depth in range(1, 7) for name in ("secret", "planted")]
        near = [f"{'../' * depth}planted" for depth in range(1, 7)]
        return (*ups, *near, str(self.folder / "secret"), str(self.folder / "planted"), "/etc/passwd", "/dev/zero")


NUMBERS: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 7, 255, 256, 257, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 10**9, 10**10, 10**12),
    *(2**63 - 1, 2**63, 2**64, -(2**31), -(2**63), -(2**63) - 1, 10**30, 0.5, -0.5, 1e-300, 1e30, 1e308),
    *(math.nan, math.inf, -math.inf, True, False, None),
)
STRINGS = (
    *("", " ", ".", "..", "/", "a/b", "a\\b", "-", "~", "*", "%s", "{}", "$HOME", "null", "NaN", "1", "1e400", "-1"),
    *("\0", "a\0b", "\x1b[31mred\x1b]0;title\x07", "line\nbanyan: all is well", "\r", "\u202ertl", "\ud83d", "\udcff"),
    *("é", "日本語", "\U0001f600", "n" * 255, "n" * 300, "n" * 100_000),
    *(f"${{oc.env:{SECRET_VARIABLE}}}", "${", "${a.b}", "${oc.env:HOME}", "???", "$(touch planted)", "`touch planted`"),
    *(
        "float16",
        "F16",
        "F64",
        "I64",
        "BOOL",
        "uint32",
        "uint16",
        "int8",
        "object",
        "gelu",
        "linear",
        "yarn",
        "org/kernel",
    ),
)
RAW = (
    b"",
    b"null",
    b"[]",
    b"{}",
    b"0",
    b'""',
    b"NaN",
    b"1" * 5000,
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"{",
    b"// x\n{}",
)


# ------------------------------------------------------------------------------------------------------------ values


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield value, key
        yield from places(inner)


def choose(draw: Random, root: Any) -> tuple[Any, Any]:
    """A place in the tree: long lists don't drown the rest."""
    container = root
    while True:
        keys = list(container) if isinstance(container, dict) else range(len(container))
        key = draw.choice(list(keys))
        inner = container[key]
        if not isinstance(inner, (dict, list)) or not inner or draw.random() < 0.15:
            return container, key
        container = inner


def hostile(draw: Random, traps: Traps, before: Any) -> Any:
    """A value that doesn't belong there."""
    kind = draw.random()
    if isinstance(before, str) and kind < 0.5:
        return draw.choice((*STRINGS, *traps.names))
    if isinstance(before, (int, float)) and kind < 0.3:
        return draw.choice((before + 1, before - 1, -before, before * 2, before * 1000, float(before), before / 2))
    if kind < 0.7:
        return draw.choice(NUMBERS)
    if kind < 0.85:
        return draw.choice((*STRINGS, *traps.names))
    return draw.choice(
        ([], {}, [[]], {"a": 1}, [None], [before], {"a": before}, str(before), nested(draw.choice((5, 150))))
    )


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def set_hostile(draw: Random, traps: Traps, root: Any) -> None:
    container, key = choose(draw, root)
    container[key] = hostile(draw, traps, container[key])


def delete(draw: Random, traps: Traps, root: Any) -> None:
    container, key = choose(draw, root)
    del container[key]


def delete_above(draw: Random, traps: Traps, root: Any) -> None:
    """A key near the root."""
    del root[draw.choice(list(root) if isinstance(root, dict) else list(range(len(root))))]


def rename(draw: Random, traps: Traps, root: Any) -> None:
    container, key = choose(draw, root)
    if isinstance(container, dict):
        value = container.pop(key)
        container[draw.choice((key + "x", key.upper(), "", *traps.names, *STRINGS))] = value


def add(draw: Random, traps: Traps, root: Any) -> None:
    """An entry that nobody asked for."""
    container, key = choose(draw, root)
    if isinstance(container, dict):
        container[draw.choice(("extra", *traps.names, *STRINGS))] = container[key]
    else:
        container.insert(draw.randrange(len(container) + 1), draw.choice((container[key], hostile(draw, traps, 0))))


def swap(draw: Random, traps: Traps, root: Any) -> None:
    (one, first), (two, second) = choose(draw, root), choose(draw, root)
    one[first], two[second] = two[second], one[first]
    if _loops(root):
        one[first], two[second] = None, None


def copy_over(draw: Random, traps: Traps, root: Any) -> None:
    """A value of another key."""
    (one, first), (two, second) = choose(draw, root), choose(draw, root)
    one[first] = json.loads(json.dumps(two[second]))


def reorder(draw: Random, traps: Traps, root: Any) -> None:
    """A list backwards, twice or without its last."""
    lists = [container[key] for container, key in places(root) if isinstance(container[key], list) and container[key]]
    if not lists:
        return set_hostile(draw, traps, root)
    chosen = draw.choice(lists)
    chosen[:] = draw.choice((chosen[::-1], chosen * 2, chosen[:-1], chosen[1:], []))


def _loops(root: Any) -> bool:
    try:
        json.dumps(root)
    except (ValueError, RecursionError):
        return True
    return False


CHANGES: tuple[Callable[[Random, Traps, Any], None], ...] = (
    *(set_hostile, set_hostile, set_hostile, set_hostile),
    *(delete, delete_above, rename, add, swap, copy_over, reorder),
)


def change(draw: Random, traps: Traps, root: Any) -> str:
    """Changes a tree in place; how."""
    if not isinstance(root, (dict, list)) or not root:
        return "nothing"
    chosen = draw.choice(CHANGES)
    chosen(draw, traps, root)
    return chosen.__name__


# ------------------------------------------------------------------------------------------------------------- files


def write_json(draw: Random, value: Any) -> bytes:
    """JSON as somebody might write it."""
    text = json.dumps(value, indent=draw.choice((None, 1)), ensure_ascii=draw.random() < 0.7)
    return text.encode("utf-8", "surrogatepass")


def mutate_json(draw: Random, content: bytes, traps: Traps) -> tuple[bytes, str]:
    """A JSON file, mostly with a value changed, sometimes with what isn't JSON."""
    how = draw.random()
    if how < 0.15:
        return mutate_bytes.mutate(draw, content)
    if how < 0.20:
        return draw.choice(RAW), "raw"
    if how < 0.24:  # a key twice: the last one counts, or doesn't
        text = content.decode()
        at = text.index("{") + 1
        root = json.loads(content)
        key = draw.choice(list(root)) if root else "a"
        return f"{text[:at]}{json.dumps(key)}: {json.dumps(hostile(draw, traps, 0))},{text[at:]}".encode(
            "utf-8", "replace"
        ), "key twice"
    root = json.loads(content)
    if how < 0.26 and isinstance(root, dict) and root:
        key = draw.choice(list(root))
        deep = draw.choice(("[" * 100_000 + "]" * 100_000, '{"a":' * 50_000 + "1" + "}" * 50_000))
        root[key] = "DEEP"
        return json.dumps(root).replace('"DEEP"', deep).encode(), "deep"
    changed = change(draw, traps, root)
    return write_json(draw, root), changed


def mutate_yaml(draw: Random, content: bytes, traps: Traps) -> tuple[bytes, str]:
    """A YAML file, likewise."""
    how = draw.random()
    if how < 0.15:
        return mutate_bytes.mutate(draw, content)
    if how < 0.25:
        laughs = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
            b"%c: &%c [%s]\n" % (97 + n, 97 + n, b",".join([b"*%c" % (96 + n)] * 9)) for n in range(1, 9)
        )
        tags = (b"!!python/object/apply:os.system ['touch planted']", b"a: !!binary x", b"- a\n- b", b"a: [", laughs)
        return draw.choice((*tags, content + b"\n" + content, content + b"\nextra: 1\n")), "raw"
    root = yaml.safe_load(content)
    changed = change(draw, traps, root)
    try:
        return yaml.safe_dump(root, sort_keys=False, allow_unicode=draw.random() < 0.5).encode(
            "utf-8", "replace"
        ), changed
    except (yaml.YAMLError, RecursionError):
        return content[: len(content) // 2], "cut"


def mutate_lines(draw: Random, content: bytes, traps: Traps) -> tuple[bytes, str]:
    """Lines of JSON, some of them changed, dropped, blank, long, of another encoding."""
    if draw.random() < 0.15:
        return mutate_bytes.mutate(draw, content)
    lines = content.split(b"\n")
    full = [number for number, line in enumerate(lines) if line.strip()]
    done = []
    for number in draw.sample(full, min(len(full), draw.choice((1, 1, 2, 5, len(full))))):
        line = lines[number]
        how = draw.choice(("json", "json", "json", "bytes", "blank", "twice", "gbk", "raw", "feed", "strange", "drop"))
        done.append(how)
        if how == "json":
            lines[number] = mutate_json(draw, line, traps)[0]
        elif how == "bytes":
            lines[number] = mutate_bytes.mutate(draw, line)[0]
        elif how == "blank":
            lines[number] = draw.choice((b"", b"   ", b"\t\r", b"\0", b"\xc2\xa0", b"\x0c"))
        elif how == "twice":
            lines[number] = line + draw.choice((b"\n", b"", b" ", b",\n")) + line
        elif how == "gbk":
            lines[number] = '{"text": "这是一个测试文档。"}'.encode("gbk")
        elif how == "raw":
            lines[number] = draw.choice(RAW)
        elif how == "feed":
            lines[number] = line + draw.choice((b"\r", b"\r\r", b"\x0b", b"\xe2\x80\xa8", b"\x1e")) + line
        elif how == "strange":
            odd = (
                "\x1b[2J",
                "\0",
                "\ud83d",
                "a" * 300_000,
                " ",
                "\ufeff",
                "\u2028",
                "<|endoftext|>",
                "\x85",
                "\U0010ffff",
            )
            lines[number] = json.dumps({"text": draw.choice(odd)}).encode()
        else:
            lines[number] = b""
    return b"\n".join(lines), f"lines: {', '.join(sorted(set(done)))}"
